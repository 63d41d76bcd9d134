// Above the charts: their legend, how they are to be drawn, and what there is to say while there are none.
const REMEMBERED = "saestudio_charts"

function keptChoices() {
  // Where the browser keeps nothing for pages, the choices last as long as the page.
  try { return JSON.parse(localStorage.getItem(REMEMBERED)) } catch { return null }
}

function keepChoices(choices) {
  try { localStorage.setItem(REMEMBERED, JSON.stringify(choices)) } catch { /* as above */ }
}

export function render({model, view}) {
  const act = (message) => model.send_msg(message)
  let choices = {}
  const choosing = lastChoice(act)
  const choose = (change) => {
    choices = {...choices, ...change}
    keepChoices(choices)
    choosing.choose(choices)
  }

  const legend = el("div", {class: "legend", role: "group", "aria-label": "Lines"})
  const toggle = el("button", {type: "button", class: "text", onclick: () => act({type: "toggle"})})
  const drawing = chartControls(choose, () => act({type: "whole"}))
  const csv = el("a", {class: "button", download: true, title: "Every step and metric as CSV"}, "CSV")
  const controls = el("div", {class: "controls", role: "group", "aria-label": "How the charts are drawn"},
    ...drawing.parts, csv)
  const waiting = el("p", {class: "waiting quiet", role: "status"})
  const notice = el("div", {class: "notice bad", role: "alert", hidden: true}, el("span"),
    el("button", {type: "button", onclick: () => act({type: "retry"})}, "Retry"))
  const bones = el("div", {class: "bones"})

  const drawBones = part(bones, (number, node) => node.replaceChildren(
    ...Array.from({length: number}, () => el("div", {class: "bone"}))))
  const drawLegend = part(legend, (lines, node) => {
    const focused = view.shadow_el.activeElement?.dataset?.line
    node.replaceChildren(...lines.map((line) => {
      const swatch = el("i", {class: line.dash})
      swatch.style.setProperty("--line-colour", line.colour)
      return el("button", {
        type: "button", class: "line", "data-line": line.index, "aria-pressed": String(line.visible),
        title: line.visible ? `Hide ${line.label}` : `Show ${line.label}`,
        onclick: () => act({type: "line", index: line.index}),
      }, swatch, line.label)
    }))
    if (focused != null) node.querySelector(`[data-line="${focused}"]`)?.focus()
  })
  const drawChoices = part(controls, (said) => {
    drawing.showSpans(said.spans)
    if (!choosing.knows(said)) return
    choices = said.choices
    drawing.show(choices)
  })

  listen(model, view, {show: ({view: head}) => {
    drawLegend(head.lines)
    drawChoices({choices: head.choices, spans: head.spans, heard: head.heard})
    setText(toggle, head.open ? "Hide" : "Show live metrics")
    toggle.setAttribute("aria-expanded", String(head.open))
    controls.hidden = !head.open
    csv.href = head.csv
    drawing.showZoom(head.zoom)
    waiting.hidden = !head.waiting
    setText(waiting, head.waiting)
    notice.hidden = !head.failed
    setText(notice.firstChild, head.failed)
    drawBones(head.bones)
    setClass(bones, head.loading ? "bones" : "bones still")
    if (head.loading) bones.setAttribute("aria-label", "Loading the charts")
    else bones.removeAttribute("aria-label")
  }})
  const kept = keptChoices()
  if (kept) {
    choices = kept
    choosing.choose(kept)
  }
  return el("section", {"aria-label": "Live metrics"},
    el("div", {class: "top"}, el("h2", {}, "Live metrics"), legend, drawing.zoom, controls, toggle), notice, waiting, bones)
}
