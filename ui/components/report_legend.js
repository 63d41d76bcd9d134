// Whose line is which.
export function render({model, view}) {
  const act = (message) => model.send_msg(message)
  const title = el("h2")
  const lines = el("div", {class: "lines"})
  listen(model, view, {show: ({view: legend}) => {
    setText(title, legend.title)
    const focused = view.shadow_el.activeElement?.dataset?.key
    lines.replaceChildren(...legend.lines.map((line) => {
      const swatch = el("i", {class: line.dash})
      swatch.style.setProperty("--line-colour", line.colour)
      const said = [swatch, line.label, line.status ? el("span", {class: `status ${line.tone}`}, line.status) : null]
      if (line.key === undefined) return el("span", {class: "line"}, ...said)
      return el("button", {type: "button", class: line.faded ? "line faded" : "line", "data-key": line.key, "aria-pressed": String(line.selected),
        title: line.selected ? "Show all alike" : `Bring out ${line.label}`, onclick: () => act({type: "select", key: line.key})}, ...said)
    }))
    if (focused) lines.querySelector(`[data-key="${focused}"]`)?.focus()
  }})
  return el("section", {"aria-label": "Lines"}, title, lines)
}
