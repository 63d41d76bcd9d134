// Above the charts of compared runs: whose line is which, what to look at, and which charts are in sight.

function named(node, name) {
  node.title = name
  node.setAttribute("aria-label", name)
}

export function render({model, view}) {
  const act = (message) => model.send_msg(message)
  let choices = {}
  const choosing = lastChoice(act)
  const choose = (change) => {
    choices = {...choices, ...change}
    choosing.choose(choices)
  }

  const runs = el("div", {class: "runs", role: "group", "aria-label": "Runs"})
  // Made once and brought up to date: a click on what is just then made anew would be lost.
  const drawRuns = keyed(runs, (key) => {
    const swatch = el("i")
    const name = el("span", {class: "label"})
    const pick = el("button", {type: "button", class: "pick", onclick: () => act({type: "select", key})}, swatch, name)
    const sae = el("select", {class: "sae", onchange: () => act({type: "sae", key, value: sae.value})})
    const drawSaes = part(sae, (saes, node) => node.replaceChildren(...saes.map(({value, label, disabled, chosen}) =>
      el("option", {value, disabled, selected: chosen}, label))))
    const status = el("span")
    const open = el("a", {class: "open"}, "↗")
    const remove = el("button", {type: "button", class: "remove", onclick: () => act({type: "remove", key})}, "×")
    const root = el("div", {}, pick, sae, status, open, remove)
    return {root, update(line) {
      setClass(root, line.faded ? "run faded" : "run")
      setClass(swatch, `swatch ${line.dash}`)
      swatch.style.setProperty("--line-colour", line.colour)
      const several = line.saes?.length > 0
      setText(name, several ? line.name : line.label)
      pick.setAttribute("aria-pressed", String(line.selected))
      pick.setAttribute("aria-label", line.label)
      pick.title = line.selected ? "Show all alike" : `Bring out ${line.label}`
      sae.hidden = !several
      sae.setAttribute("aria-label", `What is shown of ${line.label}`)
      drawSaes(line.saes ?? [])
      setText(status, line.status)
      setClass(status, `status ${line.tone}`)
      open.href = line.href
      named(open, `Open ${line.label}`)
      remove.hidden = !line.removable
      named(remove, `Take ${line.label} away`)
    }}
  })

  // Adding: what is typed is looked for, and what is found can be chosen with the arrow keys. An answer that comes after
  // the list was closed does not open it.
  let typing = null
  let wanted = false
  const look = () => {
    wanted = true
    act({type: "find", q: typed.value})
  }
  const found = el("ul", {class: "found", role: "listbox", id: "found", "aria-label": "Runs found", hidden: true,
    // Who presses in the list, or scrolls it, has not left the field.
    onmousedown: (event) => event.preventDefault()})
  const typed = el("input", {type: "search", role: "combobox", placeholder: "Add a run…", "aria-label": "Add a run",
    "aria-controls": "found", "aria-expanded": "false", "aria-autocomplete": "list", autocomplete: "off", maxlength: 200,
    onfocus: look,
    onclick: () => { if (!wanted) look() },
    oninput: () => {
      clearTimeout(typing)
      typing = setTimeout(look, 200)
    },
    onkeydown: (event) => {
      const options = offered()
      const at = options.findIndex((option) => option.ariaSelected === "true")
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault()
        if (!wanted) return look()
        const to = (at + (event.key === "ArrowDown" ? 1 : options.length - 1 + (at < 0))) % options.length
        mark(options, to)
      } else if (event.key === "Enter" && at >= 0) options[at].click()
      else if (event.key === "Escape" && wanted) {
        // The first one closes the list, the next one takes away what was typed.
        event.preventDefault()
        close()
      }
    },
    onblur: () => close()})
  const offered = () => [...found.children].filter((option) => option.role === "option")
  const mark = (options, to) => options.forEach((option, index) => {
    option.ariaSelected = String(index === to)
    if (index === to) {
      typed.setAttribute("aria-activedescendant", option.id)
      option.scrollIntoView({block: "nearest"})
    }
  })
  const close = () => {
    wanted = false
    clearTimeout(typing)
    found.hidden = true
    typed.setAttribute("aria-expanded", "false")
    typed.removeAttribute("aria-activedescendant")
    mark(offered(), -1)
  }
  // The same list leaves what has been marked in it, for it may come once more after the arrow keys were used.
  const drawOptions = part(found, (list, node) => {
    node.replaceChildren(...(list.length ? list.map((run, index) => el("li", {
      role: "option", id: `found-${index}`, "aria-selected": "false",
      onclick: () => {
        typed.value = ""
        close()
        act({type: "add", id: run.id})
      },
    }, el("span", {class: "label"}, run.name), el("span", {class: "quiet"}, run.about)))
      : [el("li", {class: "quiet none"}, "No other run matches.")]))
    typed.removeAttribute("aria-activedescendant")
  })
  const drawFound = (list) => {
    drawOptions(list)
    found.hidden = !wanted
    typed.setAttribute("aria-expanded", String(!found.hidden))
  }
  const adding = el("div", {class: "adding"}, typed, found)

  const drawing = chartControls(choose, () => act({type: "whole"}))
  const sae = el("select", {"aria-label": "SAE", onchange: () => choose({sae: sae.value})})
  const drawSaes = part(sae, (options, node) => node.replaceChildren(
    ...options.map(({value, label}) => el("option", {value}, label))))
  const link = copyButton("Copy link", () => ({content: location.href}), {class: "small"})
  const file = el("a", {class: "button small", download: true, title: "One file that opens anywhere, without a server"}, "Export HTML")
  const controls = el("div", {class: "controls", role: "group", "aria-label": "How the charts are drawn"},
    drawing.zoom, ...drawing.parts,
    el("label", {class: "check"}, "SAE", sae), link, file)

  const notice = el("div", {class: "notice bad", role: "alert", hidden: true}, el("span"),
    el("button", {type: "button", onclick: () => act({type: "retry"})}, "Retry"))
  const drop = el("button", {type: "button", onclick: () => act({type: "drop"})}, "Take away")
  notice.append(drop)
  const note = el("p", {class: "note quiet", role: "status", hidden: true})
  const bones = el("div", {class: "bones", "aria-label": "Loading the charts"}, ...Array.from({length: 6}, () => el("div", {class: "bone"})))
  const empty = el("div", {class: "empty", hidden: true}, el("h2", {}, "Nothing to compare yet"),
    el("p", {class: "quiet"}, "Add two to ten runs above, or tick them in the list and press Compare. The address of this page can be shared."),
    el("a", {class: "button", href: "./"}, "All trainings"))

  // Which charts are in sight. A hidden tab sees none.
  const inSight = new Map()
  const watching = new Set()
  let said = null
  const tell = () => {
    const charts = document.hidden ? [] : [...inSight].filter(([, seen]) => seen).map(([name]) => name).sort()
    const now = charts.join(" ")
    if (now === said) return
    said = now
    act({type: "seen", charts})
  }
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) inSight.set(entry.target.studio_chart, entry.isIntersecting)
    tell()
  }, {rootMargin: "80px"})
  // Models that were taken from the page are kept for a while, under the same names.
  const place = (name) => [...Bokeh.documents[0]?.all_models ?? []].filter((chart) => chart.name === name)
    .map((chart) => Bokeh.index.find_one_by_id(chart.id)?.el).find((target) => target?.isConnected)
  let looking = null
  const watch = (names, round) => {
    clearTimeout(looking)
    for (const target of watching) {
      if (!target.isConnected) {
        observer.unobserve(target)
        watching.delete(target)
      }
    }
    const have = new Set([...watching].map((target) => target.studio_chart))
    for (const name of inSight.keys()) if (!names.includes(name)) inSight.delete(name)
    for (const name of names) {
      const target = place(name)
      if (!have.has(name) && target?.isConnected) {
        target.studio_chart = name
        watching.add(target)
        observer.observe(target)
      }
    }
    // Charts are drawn some time after they were announced.
    if (watching.size < names.length && round < 100 && runs.isConnected) {
      looking = setTimeout(() => watch(names, round + 1), 100)
    }
  }
  view.studio_watch?.()
  document.addEventListener("visibilitychange", tell)
  view.studio_watch = () => {
    document.removeEventListener("visibilitychange", tell)
    observer.disconnect()
    clearTimeout(looking)
  }
  const watchCharts = part(runs, ({charts}) => {
    said = null
    watch(charts, 0)
    tell()
  })

  listen(model, view, {
    show: ({view: head}) => {
      drawRuns(head.lines.map((line) => ({...line, id: line.key, removable: head.removable})))
      drawSaes(head.saes)
      drawing.showSpans(head.spans)
      if (choosing.knows(head)) {
        choices = head.choices
        drawing.show(choices)
        sae.value = choices.sae
      }
      drawing.showZoom(head.zoom)
      sae.parentNode.hidden = head.saes.length < 2
      controls.hidden = head.empty
      adding.hidden = head.full
      file.href = head.file
      notice.hidden = !head.failed
      setText(notice.firstChild, head.failed)
      drop.hidden = !head.missing
      note.hidden = !head.note
      setText(note, head.note)
      bones.hidden = !head.loading
      empty.hidden = !head.empty
      watchCharts({charts: head.charts, drawing: head.drawing})
    },
    found: ({runs: list}) => drawFound(list),
  })
  return el("section", {"aria-label": "Compare"},
    el("div", {class: "top"}, el("h1", {}, "Compare"), adding, controls), runs, notice, note, bones, empty)
}
