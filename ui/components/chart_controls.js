// How charts are drawn: along what, on which scale, how smooth, and how much of them. `choose(change)` is called with what
// a person chooses.
function chartControls(choose, whole) {
  const axes = el("div", {class: "axes", role: "group", "aria-label": "Charts by"},
    ...[["step", "Step"], ["tokens", "Tokens"], ["time", "Time"]].map(([axis, label]) => el("button",
      {type: "button", "data-axis": axis, onclick: () => choose({axis})}, label)))
  const log = el("input", {type: "checkbox", onchange: () => choose({log: log.checked})})
  let spans = []
  const range = el("input", {type: "range", min: 0, step: 1, "aria-label": "Smoothing",
    oninput: () => say(),
    onchange: () => choose({smoothing: spans[range.value].span})})
  const span = el("output", {class: "span quiet"})
  const say = () => {
    const {label} = spans[range.value]
    setText(span, label)
    range.setAttribute("aria-valuetext", label)
  }
  const zoomed = el("span", {class: "quiet"})
  const zoom = el("div", {class: "zoom", hidden: true}, zoomed, el("button", {type: "button", onclick: whole}, "Show all"))
  return {
    zoom,
    parts: [axes, el("label", {class: "check"}, log, "Log scale"), el("label", {class: "smoothing"}, "Smoothing", range, span)],
    showZoom(text) {
      zoom.hidden = !text
      setText(zoomed, text)
    },
    showSpans(list) {
      spans = list
      range.max = spans.length - 1
    },
    show(choices) {
      for (const button of axes.children) button.setAttribute("aria-pressed", String(button.dataset.axis === choices.axis))
      log.checked = choices.log
      range.value = Math.max(0, spans.findIndex(({span}) => span === choices.smoothing))
      say()
    },
  }
}

