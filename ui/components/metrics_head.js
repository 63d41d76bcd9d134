// Above the charts: their legend, and what there is to say while there are none.
export function render({model, view}) {
  const act = (message) => model.send_msg(message)

  const legend = el("div", {class: "legend"})
  const toggle = el("button", {type: "button", class: "text", onclick: () => act({type: "toggle"})})
  const waiting = el("p", {class: "waiting quiet", role: "status"})
  const notice = el("div", {class: "notice bad", role: "alert", hidden: true}, el("span"),
    el("button", {type: "button", onclick: () => act({type: "retry"})}, "Retry"))
  const bones = el("div", {class: "bones", "aria-label": "Loading the charts"},
    ...Array.from({length: 6}, () => el("div", {class: "bone"})))

  const drawLegend = part(legend, (lines, node) => node.replaceChildren(...lines.map((line) => {
    const swatch = el("i", {class: line.dash})
    swatch.style.setProperty("--line-colour", line.colour)
    return el("button", {
      type: "button", class: "line", "aria-pressed": String(line.visible),
      title: line.visible ? `Hide ${line.label}` : `Show ${line.label}`,
      onclick: () => act({type: "line", index: line.index}),
    }, swatch, line.label)
  })))

  listen(model, view, {show: ({view: head}) => {
    drawLegend(head.lines)
    setText(toggle, head.open ? "Hide" : "Show live metrics")
    toggle.setAttribute("aria-expanded", String(head.open))
    waiting.hidden = !head.waiting
    setText(waiting, head.waiting)
    notice.hidden = !head.failed
    setText(notice.firstChild, head.failed)
    bones.hidden = !head.loading
  }})
  return el("section", {"aria-label": "Live metrics"},
    el("div", {class: "top"}, el("h2", {}, "Live metrics"), legend, toggle), notice, waiting, bones)
}
