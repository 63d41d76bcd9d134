// The end of a log, as a file keeps it.
export function render({model, view}) {
  const title = el("summary")
  const lines = el("div", {class: "lines"})
  listen(model, view, {show: ({view: log}) => {
    title.replaceChildren(el("h2", {}, log.title), el("span", {class: "quiet"}, log.lines.length
      ? `the last ${log.lines.length} lines` : "nothing was logged"))
    lines.replaceChildren(...log.lines.map(([time, level, logger, message]) => el("div", {class: `line ${level.toLowerCase()}`},
      el("span", {class: "quiet"}, clock(time, true)), el("b", {}, level), el("span", {class: "message", title: logger}, message))))
  }})
  return el("details", {class: "surface", open: true}, title, lines)
}
