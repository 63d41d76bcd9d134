// The whole list of trainings as one component: filters, search, rows, and what to do where there are none.

const COLUMNS = [
  ["name", "Name"], ["status", "Status"], ["progress", "Progress"], ["model", "Model"], ["architecture", "Architecture"],
  ["layers", "Layers"], ["loss", "Loss"], ["l0", "L0"], ["fvu", "FVU"], ["dead", "Dead"], ["standing", ""],
]
const FIGURES = new Set(["loss", "l0", "fvu", "dead"])

export function render({model, view}) {
  const act = (message) => model.send_msg(message)

  const filterBar = el("div", {class: "filters", role: "group", "aria-label": "Status"})
  const drawFilters = part(filterBar, (value, node) => {
    node.replaceChildren(...value.filters.map(({key, label, count}) => el("button", {
      class: "filter", type: "button", "aria-pressed": String(key === value.status),
      onclick: () => act({type: "filter", status: key}),
    }, label, el("b", {}, String(count)))))
  })

  let typing = null
  const search = el("input", {
    type: "search", placeholder: "Search name, model, tag, note", "aria-label": "Search trainings", maxlength: 200,
    oninput: () => {
      clearTimeout(typing)
      typing = setTimeout(() => act({type: "search", q: search.value}), 250)
    },
  })

  const head = el("div", {class: "row head", role: "row"},
    ...COLUMNS.map(([name, label]) => el("span", {role: "columnheader", class: `cell c-${name}`}, label)))
  const body = el("div", {role: "rowgroup"})
  const table = el("div", {class: "table", role: "table", "aria-label": "Trainings"}, head, body)
  const rows = new Map()

  function makeRow(id) {
    const cells = {}
    for (const [name, label] of COLUMNS) {
      cells[name] = el("span", {class: `cell c-${name}`, role: "cell", "data-label": label})
    }
    const name = el("a", {href: `?training=${encodeURIComponent(id)}`})
    const status = el("span")
    const bar = el("span", {class: "bar"}, el("i"))
    const percent = el("span", {class: "percent"})
    cells.name.append(name)
    cells.status.append(status)
    cells.progress.append(bar, percent)
    const row = el("div", {class: "row", role: "row", onclick: (event) => {
      // The whole row leads to its training; the link in it does so by itself.
      if (!event.target.closest("a") && !getSelection().toString()) name.click()
    }}, ...Object.values(cells))
    const update = part(row, (value) => {
      setText(name, value.name)
      name.title = value.name
      setText(status, value.label)
      setClass(status, `status ${value.tone}`)
      setClass(bar, `bar ${value.tone}`)
      bar.hidden = value.done == null
      bar.firstChild.style.width = `${(value.done ?? 0) * 100}%`
      setText(percent, value.percent || value.step)
      setText(cells.model, value.model)
      cells.model.title = value.model_full
      setText(cells.architecture, value.architecture)
      setText(cells.layers, value.layers)
      cells.layers.title = value.hooks
      for (const figure of FIGURES) setText(cells[figure], value[figure])
      setText(cells.standing, value.standing)
      cells.standing.title = value.standing
    })
    return {row, update}
  }

  const empty = el("div", {class: "empty", hidden: true})
  const drawEmpty = part(empty, (searching, node) => {
    if (searching) {
      node.replaceChildren(
        el("h2", {}, "No training matches"),
        el("p", {class: "quiet"}, "Nothing here has this status and these words."),
        el("button", {type: "button", onclick: () => act({type: "clear"})}, "Show all trainings"),
      )
    } else {
      node.replaceChildren(
        el("h2", {}, "No trainings yet"),
        el("p", {class: "quiet"}, "Start one from a terminal; it appears here at once and can be watched while it runs."),
        el("p", {}, el("code", {}, "saestudio train --demo"), el("span", {class: "quiet"},
          " trains on the small model that comes with the studio")),
        el("p", {}, el("code", {}, "saestudio train CONFIG.toml"), el("span", {class: "quiet"},
          " trains on a model and data set of yours")),
      )
    }
  })

  const notice = el("div", {class: "notice bad", role: "alert", hidden: true}, el("span"),
    el("button", {type: "button", onclick: () => act({type: "retry"})}, "Retry"))
  const bones = el("div", {class: "bones", "aria-hidden": "true"}, ...Array.from({length: 5}, () => el("div", {class: "bone"})))
  const more = el("button", {type: "button", class: "more", hidden: true, onclick: () => act({type: "more"})}, "Show more")

  listen(model, view, {show: ({view: list}) => {
    notice.hidden = !list.failed
    if (list.failed) setText(notice.firstChild, list.failed)
    bones.hidden = !list.loading
    if (list.loading || !list.rows) return
    drawFilters({filters: list.filters, status: list.status})
    if (view.shadow_el.activeElement !== search && search.value !== list.q) search.value = list.q
    const seen = new Set()
    list.rows.forEach((value, index) => {
      seen.add(value.id)
      if (!rows.has(value.id)) rows.set(value.id, makeRow(value.id))
      const {row, update} = rows.get(value.id)
      update(value)
      if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null)
    })
    for (const [id, {row}] of rows) {
      if (!seen.has(id)) {
        row.remove()
        rows.delete(id)
      }
    }
    table.hidden = list.rows.length === 0
    empty.hidden = list.rows.length > 0
    drawEmpty(list.searching)
    const none = list.rows.length === 0 && !list.searching
    filterBar.hidden = none
    search.hidden = none
    more.hidden = list.rows.length >= list.matching
    setText(more, `Show more (${list.rows.length} of ${list.matching})`)
  }})
  table.hidden = true
  return el("section", {class: "surface", "aria-label": "Trainings"},
    el("div", {class: "top"}, el("h1", {}, "Trainings"), filterBar, search),
    notice, bones, table, empty, more)
}
