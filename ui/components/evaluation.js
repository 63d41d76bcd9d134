// What every SAE of a training is worth on held-out text.
const SVG = "http://www.w3.org/2000/svg"
const WIDTH = 72
const HEIGHT = 20
const AT_ONCE = 6

function shape(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag)
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value)
  node.append(...children)
  return node
}

// A figure's course over the evaluations, its last point marked.
function course({steps, course: values}) {
  const [least, most] = [Math.min(...values), Math.max(...values)]
  const [first, last] = [steps[0], steps.at(-1)]
  const points = values.map((value, index) => [
    3 + (WIDTH - 6) * (last > first ? (steps[index] - first) / (last - first) : 1),
    3 + (HEIGHT - 6) * (most > least ? (most - value) / (most - least) : 0.5),
  ])
  const [x, y] = points.at(-1)
  return shape("svg", {class: "course", width: WIDTH, height: HEIGHT, "aria-hidden": "true"},
    shape("polyline", {points: points.map((point) => point.map((at) => at.toFixed(1)).join(",")).join(" ")}),
    shape("circle", {cx: x, cy: y, r: 2.4}))
}

function figure(one) {
  const told = one.trend ? `${one.value}, ${one.trend.title}` : null
  return el("div", {class: "figure", "data-figure": one.name, title: one.help},
    el("dt", {}, one.label),
    el("dd", {class: "value"}, el("span", {"aria-label": told}, one.value), one.trend
      ? el("span", {class: `trend ${one.trend.tone}`, title: one.trend.title, "aria-hidden": "true"}, one.trend.sign) : null),
    el("dd", {class: "note"}, one.note || " "),
    el("dd", {class: "line", title: one.story}, one.course.length > 1 ? course(one) : null))
}

// Heights are set as properties: what is asked for in a style attribute could be refused by a page's policy.
function bar(name, height, title) {
  const ink = el("i")
  ink.style.height = `${height * 100}%`
  return el("span", {class: height > 0 ? `bin ${name}` : `bin none ${name}`, title}, ink)
}

function density(found) {
  const never = el("b", {}, found.never.label)
  never.style.bottom = `${found.never.height * 100}%`
  const bins = el("div", {class: "bins"}, ...found.bars.map(({height, title, dense}) => bar(dense ? "dense" : "", height, title)))
  const ticks = el("div", {class: "ticks", "aria-hidden": "true"}, ...found.ticks.map(({at, label}) => {
    const tick = el("span", {}, label)
    tick.style.left = `${at * 100}%`
    return tick
  }))
  return el("figure", {class: "density"},
    el("figcaption", {}, "Latents by the share of tokens they fire on"),
    el("div", {class: "plot", role: "img", "aria-label": found.summary},
      el("div", {}, bins, ticks),
      el("div", {class: "apart"},
        el("div", {class: found.never.cut ? "bins cut" : "bins"},
          bar("silent", found.never.height, found.never.title), never),
        el("div", {class: "ticks", "aria-hidden": "true"}, el("span", {}, "never")))))
}

function panel(sae) {
  const swatch = el("i", {class: `swatch ${sae.dash}`})
  swatch.style.setProperty("--line-colour", sae.colour)
  return el("article", {class: "sae", "data-sae": sae.index, "aria-label": `Evaluation of ${sae.label}`},
    el("header", {}, swatch, el("h3", {}, sae.label),
      sae.verdict ? el("span", {class: `status ${sae.verdict.tone}`}, sae.verdict.label) : null,
      el("span", {class: "quiet when", title: `${clock(sae.timestamp, true)}, ${sae.tokens}`}, sae.at)),
    sae.reasons.length ? el("ul", {class: "reasons"}, ...sae.reasons.map((reason) => el("li", {}, reason))) : null,
    el("div", {class: "halves"}, el("dl", {class: "figures"}, ...sae.figures.map(figure)),
      sae.density ? density(sae.density) : null))
}

export function render({model, view}) {
  const act = (message) => model.send_msg(message)
  let all = false
  let shown = []

  const summary = el("span", {class: "summary quiet", role: "status"})
  const notice = el("div", {class: "notice bad", role: "alert", hidden: true}, el("span"),
    el("button", {type: "button", onclick: () => act({type: "retry"})}, "Retry"))
  const waiting = el("p", {class: "waiting quiet", role: "status"})
  const bones = el("div", {class: "bones", "aria-hidden": "true"})
  const list = el("div", {class: "saes"})
  const more = el("button", {type: "button", class: "more", hidden: true, onclick: () => {
    all = true
    draw(shown)
  }})

  const drawn = new Map()
  const draw = (saes) => {
    shown = saes
    const seen = all ? saes : saes.slice(0, AT_ONCE)
    const keys = new Set(seen.map(({index}) => index))
    for (const [key, {node}] of drawn) {
      if (!keys.has(key)) {
        node.remove()
        drawn.delete(key)
      }
    }
    seen.forEach((sae, place) => {
      const now = JSON.stringify(sae)
      const last = drawn.get(sae.index)
      if (last?.now !== now) {
        const node = panel(sae)
        if (last) last.node.replaceWith(node)
        drawn.set(sae.index, {node, now})
      }
      const {node} = drawn.get(sae.index)
      if (list.children[place] !== node) list.insertBefore(node, list.children[place] ?? null)
    })
    more.hidden = seen.length === saes.length
    setText(more, `Show all ${saes.length} SAEs`)
  }
  const drawBones = part(bones, (number, node) => node.replaceChildren(
    ...Array.from({length: Math.min(number, AT_ONCE)}, () => el("div", {class: "bone"}))))

  listen(model, view, {show: ({view: page}) => {
    setText(summary, page.summary)
    notice.hidden = !page.failed
    setText(notice.firstChild, page.failed)
    waiting.hidden = !page.waiting
    setText(waiting, page.waiting)
    bones.hidden = !page.bones
    drawBones(page.bones)
    setClass(bones, page.loading ? "bones" : "bones still")
    draw(page.saes)
  }})
  return el("section", {class: "surface", "aria-label": "Evaluation"},
    el("div", {class: "top"}, el("h2", {}, "Evaluation"), summary), notice,
    el("div", {class: "body"}, bones, waiting, list), more)
}
