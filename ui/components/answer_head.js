// Above the chart of an answer: what is drawn of it, and how.
export function render({model, view}) {
  let choice = {mark: "line", x: "", y: [], series: ""}
  const choosing = lastChoice((message) => model.send_msg(message))
  const choose = (change) => {
    choice = {...choice, ...change}
    drawChoice(choice)
    choosing.choose(choice)
  }
  const marks = el("div", {class: "axes", role: "group", "aria-label": "Drawn as"},
    ...[["line", "Lines"], ["points", "Points"], ["bars", "Bars"]].map(([mark, label]) => el("button",
      {type: "button", "data-mark": mark, onclick: () => choose({mark})}, label)))
  const x = el("select", {"aria-label": "Along", onchange: () => choose({x: x.value})})
  const series = el("select", {"aria-label": "Colour", onchange: () => choose({series: series.value})})
  const columns = el("div", {class: "columns", role: "group", "aria-label": "Drawn"})
  const note = el("p", {class: "note quiet", role: "status", hidden: true})

  const fill = (select) => part(select, (list, node) => node.replaceChildren(...list.map(({value, label}) => el("option", {value}, label))))
  const drawX = fill(x)
  const drawSeries = fill(series)
  const drawColumns = part(columns, (names, node) => node.replaceChildren(...names.map((name) => el("button",
    {type: "button", class: "small", "data-column": name, onclick: () => toggle(name)}, name))))
  function toggle(name) {
    const y = choice.y.includes(name) ? choice.y.filter((one) => one !== name) : [...choice.y, name]
    // One of them always stays.
    if (y.length) choose({y})
  }
  function drawChoice({mark, y}) {
    for (const button of marks.children) button.setAttribute("aria-pressed", String(button.dataset.mark === mark))
    for (const button of columns.children) button.setAttribute("aria-pressed", String(y.includes(button.dataset.column)))
  }

  listen(model, view, {show: ({view: head}) => {
    drawX(head.options.x)
    drawSeries(head.options.series)
    drawColumns(head.options.y)
    if (choosing.knows(head)) choice = {mark: head.mark, x: head.x, y: head.y, series: head.series}
    drawChoice(choice)
    x.value = choice.x
    series.value = choice.series
    series.parentNode.hidden = head.options.series.length < 2
    note.hidden = !head.note
    setText(note, head.note)
  }})
  return el("section", {"aria-label": "Chart"},
    el("div", {class: "top"}, el("h2", {}, "Chart"), marks, el("label", {class: "check"}, "Along", x),
      el("label", {class: "check"}, "Colour", series)),
    columns, note)
}
