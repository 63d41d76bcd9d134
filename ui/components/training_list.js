// The whole list of trainings as one component: filters, search, rows, what is selected, and what to do where there is none.
// What can be clicked is made once and brought up to date: a click on what is just then made anew would be lost.

const COLUMNS = [
  ["check", ""], ["name", "Name", "name"], ["status", "Status", "status"], ["progress", "Progress", "-progress"],
  ["verdict", "Verdict"], ["model", "Model", "model"], ["architecture", "Architecture", "architecture"], ["layers", "Layers"],
  ["loss", "Loss", "loss"], ["l0", "L0", "l0"], ["fvu", "FVU", "fvu"], ["dead", "Dead", "dead_latents"], ["standing", "Remarks"],
]
const FIGURES = new Set(["loss", "l0", "fvu", "dead"])

// Something that may be wanted, and how many have it.
function toggleButton(kind, click) {
  const name = el("span")
  const number = el("b")
  const root = el("button", {type: "button", class: kind, onclick: click}, name, number)
  return {root, update({label, count, on}) {
    setText(name, label)
    setText(number, String(count))
    root.setAttribute("aria-pressed", String(on))
  }}
}

export function render({model, view}) {
  const act = (message) => model.send_msg(message)

  // What is shown at all

  const filterBar = el("div", {class: "filters", role: "group", "aria-label": "Status"})
  const drawFilters = keyed(filterBar, (status) => toggleButton("filter", () => act({type: "filter", status})))

  const {box: search, show: showSearch} = searchBox(view, "Search trainings", "Search name, model, tag, note",
    (q) => act({type: "search", q}))

  const field = el("select", {"aria-label": "Field"})
  const sign = el("select", {"aria-label": "Comparison"})
  const options = el("datalist", {id: "options"})
  const value = el("input", {type: "text", "aria-label": "Value", placeholder: "value, or none", maxlength: 200, list: "options",
    autocomplete: "off"})
  const building = el("form", {class: "building", hidden: true, onsubmit: (event) => {
    event.preventDefault()
    if (!value.value.trim()) return value.focus()
    act({type: "where", field: field.value, sign: sign.value, value: value.value})
    value.value = ""
    build(false)
  }, onkeydown: (event) => { if (event.key === "Escape") build(false) }},
  field, sign, value, options, el("button", {type: "submit", class: "small main"}, "Add"))
  const opener = el("button", {type: "button", class: "small", "aria-expanded": "false", onclick: () => build(building.hidden)},
    "+ Filter")
  const build = (on) => {
    building.hidden = !on
    opener.setAttribute("aria-expanded", String(on))
    on ? field.focus() : opener.focus()
  }
  let known = []
  const suggest = () => options.replaceChildren(
    ...(known.find(({name}) => name === field.value)?.options ?? []).map((one) => el("option", {value: one})))
  field.addEventListener("change", suggest)
  const drawFields = part(building, ({fields, signs}) => {
    known = fields
    field.replaceChildren(...fields.map(({name, label}) => el("option", {value: name}, label)))
    sign.replaceChildren(...signs.map((one) => el("option", {value: one.sign}, one.label)))
    suggest()
  })
  const conditions = el("div", {class: "conditions", role: "group", "aria-label": "Filters"})
  const drawConditions = part(conditions, (list, node) => node.replaceChildren(...list.map(({said, label}) =>
    el("button", {type: "button", class: "filter on", title: "Take this filter away", onclick: () => act({type: "unwhere", said})},
      label, el("b", {"aria-hidden": "true"}, "×")))))
  const tags = el("div", {class: "conditions", role: "group", "aria-label": "Tags"})
  const drawTags = keyed(tags, (tag) => toggleButton("filter tag", () => act({type: "tag", tag})))
  const group = el("select", {"aria-label": "Group by", onchange: () => act({type: "group", group: group.value})})
  const drawGroups = part(group, (list, node) => node.replaceChildren(...list.map(({value: name, label}) =>
    el("option", {value: name}, label))))
  const second = el("div", {class: "second"}, opener, building, conditions, tags,
    el("label", {class: "grouping"}, "Group by", group))

  // What is selected, and what is to be done with it

  const selectedLabel = el("span", {class: "count", role: "status"})
  const compare = el("a", {class: "button small main"}, "Compare")
  const notCompared = el("button", {type: "button", class: "small", disabled: true}, "Compare")
  const file = el("a", {class: "button small", download: true}, "Export HTML")
  const actions = el("span", {class: "actions"})
  const drawActions = keyed(actions, (action) => {
    const root = el("button", {type: "button", onclick: () => act({type: "bulk", action})})
    return {root, update({label, tone}) {
      setText(root, label)
      setClass(root, `small ${tone}`)
    }}
  })
  const drawBulk = (selection) => {
    compare.hidden = file.hidden = !selection.compare
    notCompared.hidden = Boolean(selection.compare)
    compare.href = selection.compare
    file.href = selection.export
    notCompared.title = selection.compare_title
    drawActions(selection.actions.map(({name, label, tone}) => ({id: name, label, tone})))
  }
  const bar = el("div", {class: "selection", hidden: true}, selectedLabel,
    el("div", {class: "bulk", role: "group", "aria-label": "With what is selected"}, compare, notCompared, file, actions),
    el("button", {type: "button", class: "text", onclick: () => act({type: "select", ids: [...chosen()], on: false})}, "Clear"))
  const asking = el("div", {class: "asking", role: "alertdialog", "aria-label": "Are you sure?", hidden: true,
    onkeydown: (event) => { if (event.key === "Escape") act({type: "keep"}) }})
  let tagTyped = ""
  const drawAsking = part(asking, ({question, busy, problem}, node) => {
    if (question?.action !== "tag") tagTyped = ""
    if (!question) return node.replaceChildren()
    const tag = el("input", {type: "text", "aria-label": "Tag", placeholder: "tag", maxlength: 64, autocomplete: "off",
      oninput: () => { tagTyped = tag.value }})
    tag.value = tagTyped
    const doing = question.action === "tag"
    const send = (more) => act({type: "do", ...more})
    const confirm = el("button", {type: doing ? "submit" : "button", class: question.danger ? "small danger" : "small main", disabled: busy,
      onclick: doing ? null : () => send({})}, busy ? "Working…" : question.button)
    const names = el("ul", {class: "names"}, ...question.does.map(({name}) => el("li", {}, name)))
    node.replaceChildren(...[el("p", {class: "question"}, question.text), names,
      question.skips.length ? el("p", {class: "quiet"}, "Left alone: "
        + question.skips.map(({name, why}) => `${name} (${why})`).join(", ") + ".") : null,
      question.tags.length ? el("p", {class: "untag"}, el("span", {class: "quiet"}, "Take away:"), ...question.tags.map((one) =>
        el("button", {type: "button", class: "filter tag", disabled: busy, "aria-label": `Take the tag ${one} away`,
          onclick: () => send({tag: one, remove: true})}, one, el("b", {"aria-hidden": "true"}, "×")))) : null,
      el(doing ? "form" : "div", {class: "answer", onsubmit: (event) => {
        event.preventDefault()
        send({tag: tag.value})
      }}, doing ? tag : null, confirm,
      el("button", {type: "button", class: "small", disabled: busy, onclick: () => act({type: "keep"})}, "Cancel")),
      problem ? el("p", {class: "problem", role: "alert"}, problem) : null].filter(Boolean))
    if (!busy) (doing ? tag : confirm).focus()
  })

  // The rows

  const all = el("input", {type: "checkbox", onchange: () => act({type: "select", ids: order, on: all.checked})})
  const heads = COLUMNS.map(([name, label, sort]) => {
    const head = el("span", {role: "columnheader", class: `cell c-${name}`})
    if (name === "check") head.append(all)
    else if (sort) head.append(el("button", {type: "button", class: "sort", "data-sort": sort, onclick: () => {
      const down = sort.startsWith("-") ? sort : `-${sort}`
      const up = down.slice(1)
      // First as it is mostly wanted, then the other way round, then as before.
      const wanted = {[sort]: sort === down ? up : down, [sort === down ? up : down]: ""}[sorted] ?? sort
      act({type: "sort", sort: wanted})
    }}, label))
    else head.textContent = label
    return head
  })
  let sorted = ""
  const head = el("div", {class: "row head", role: "row"}, ...heads)
  const body = el("div", {role: "rowgroup"})
  const table = el("div", {class: "table", role: "table", "aria-label": "Trainings"}, head, body)
  const rows = new Map()
  const headings = new Map()
  let order = []
  let last = null

  // Below its row, one training's note, and the form for it and the name.

  const noteText = el("div", {class: "note-text", role: "group", "aria-label": "Note"})
  const drawNote = part(noteText, (nodes, node) => node.replaceChildren(...markdown(nodes)))
  const noteTools = el("div", {class: "answer"},
    el("button", {type: "button", class: "small", onclick: () => describe(true)}, "Edit"),
    el("button", {type: "button", class: "small", onclick: () => unfold(unfolded.id)}, "Hide"))
  const noting = noteForm({
    named: true,
    send: (changes) => act({type: "describe", id: unfolded.id, ...changes}),
    leave: () => unfolded.note ? describe(false) : unfold(unfolded.id),
  })
  const panel = el("div", {class: "panel", role: "row"},
    el("div", {role: "cell", class: "inside"}, noteText, noteTools, noting.form))
  let unfolded = null
  let editing = false
  let openBefore = false
  const describe = (on) => {
    editing = on
    noting.form.hidden = !on
    noteText.hidden = noteTools.hidden = on
    if (on) {
      openBefore = Boolean(unfolded.note)
      noting.fill(unfolded)
    } else if (panel.isConnected) noteTools.firstChild.focus()
  }
  const unfold = (id, edit = false) => {
    const again = id === unfolded?.id
    editing = edit
    if (again && edit) return describe(true)
    if (again) rows.get(id)?.row.querySelector(".pencil").focus()
    act({type: "unfold", id: again ? "" : id})
  }
  const takeUnfolded = (value) => {
    if (!value) {
      // What is being typed waits for its row, which may only be filtered away for a moment.
      if (!editing) unfolded = null
      return
    }
    const other = value.id !== unfolded?.id
    unfolded = value
    drawNote(value.tree)
    if (other) return () => describe(editing || !value.note)
    if (editing) noting.meanwhile(value)
  }
  const chosen = () => order.filter((id) => rows.get(id)?.value.selected)

  function makeRow(id) {
    const cells = {}
    for (const [name, label] of COLUMNS) {
      cells[name] = el("span", {class: `cell c-${name}`, role: "cell", "data-label": label})
    }
    const check = el("input", {type: "checkbox", onclick: (event) => {
      // With the shift key, everything from the last one on.
      const [from, to] = [order.indexOf(last), order.indexOf(id)]
      const ids = event.shiftKey && from >= 0 ? order.slice(Math.min(from, to), Math.max(from, to) + 1) : [id]
      last = id
      act({type: "select", ids, on: check.checked})
    }})
    const name = el("a", {href: `?training=${encodeURIComponent(id)}`})
    const tagged = el("span", {class: "tagged"})
    const note = el("button", {type: "button", class: "noted", onclick: () => unfold(id)})
    const pencil = el("button", {type: "button", class: "text pencil", title: "Rename or note", onclick: () => unfold(id, true)}, "✎")
    const verdict = el("span")
    const drawVerdict = part(verdict, (value, node) => {
      setClass(node, `verdict ${value?.tone}`)
      node.hidden = !value
      node.title = value?.title ?? ""
      node.replaceChildren(value?.label ?? "", el("span", {class: "unseen"}, `. ${value?.title}`))
    })
    const status = el("span")
    const bar = el("span", {class: "bar"}, el("i"))
    const percent = el("span", {class: "percent"})
    cells.check.append(check)
    cells.name.append(el("span", {class: "named"}, name, pencil), el("span", {class: "about"}, tagged, note))
    cells.verdict.append(verdict)
    cells.status.append(status)
    cells.progress.append(bar, percent)
    const row = el("div", {class: "row", role: "row", onclick: (event) => {
      // The whole row leads to its training; the link in it does so by itself.
      if (!event.target.closest("a, button, .c-check") && !getSelection().toString()) name.click()
    }}, ...Object.values(cells))
    const drawTagged = part(tagged, (list, node) => node.replaceChildren(...list.map((tag) => el("button", {type: "button",
      class: "mark", title: `Only what is tagged ${tag}`, onclick: () => act({type: "tag", tag})}, tag))))
    const update = part(row, (value) => {
      rows.get(id).value = value
      setText(name, value.name)
      name.title = value.name
      drawTagged(value.tags)
      note.hidden = !value.note
      setText(note, value.note)
      pencil.setAttribute("aria-label", `Rename or note ${value.name}`)
      drawVerdict(value.verdict)
      check.checked = value.selected
      check.setAttribute("aria-label", `Select ${value.name}`)
      row.setAttribute("aria-selected", String(value.selected))
      setText(status, value.label)
      status.title = value.standing
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
    return {row, update, value: {}}
  }

  // A row, and before the first of a group the group's name.
  function arrange(grouped) {
    const wanted = []
    const seen = new Set()
    let group = null
    for (const id of order) {
      const now = rows.get(id).value.group
      if (grouped && now !== group) {
        group = now
        if (!headings.has(group)) {
          headings.set(group, el("div", {class: "heading", role: "row"}, el("span", {role: "cell"}, group)))
        }
        seen.add(group)
        wanted.push(headings.get(group))
      }
      wanted.push(rows.get(id).row)
      if (id === unfolded?.id) wanted.push(panel)
    }
    place(body, wanted)
    for (const id of rows.keys()) if (!order.includes(id)) rows.delete(id)
    for (const name of headings.keys()) if (!seen.has(name)) headings.delete(name)
  }

  const empty = el("div", {class: "empty", hidden: true})
  const drawEmpty = part(empty, (searching, node) => {
    if (searching) {
      node.replaceChildren(
        el("h2", {}, "No training matches"),
        el("p", {class: "quiet"}, "Nothing here has this status, these words, tags and settings."),
        el("button", {type: "button", onclick: () => act({type: "clear"})}, "Show all trainings"),
      )
    } else {
      node.replaceChildren(
        el("h2", {}, "No trainings yet"),
        el("p", {class: "quiet"}, "Start one here or from a terminal; it appears at once and can be watched while it runs."),
        el("a", {class: "button main", href: "?page=new"}, "New training"),
        el("p", {}, el("code", {}, "saestudio train --demo"), el("span", {class: "quiet"},
          " trains on the small model that comes with the studio")),
        el("p", {}, el("code", {}, "saestudio train CONFIG.toml"), el("span", {class: "quiet"},
          " trains on a model and data set of yours")),
      )
    }
  })

  const failed = notice("bad", el("button", {type: "button", onclick: () => act({type: "retry"})}, "Retry"))
  const refused = notice("warn", el("button", {type: "button", onclick: () => act({type: "clear"})}, "Show all trainings"))
  const wait = bones(5)
  const more = el("button", {type: "button", class: "more", hidden: true, onclick: () => act({type: "more"})}, "Show more")
  // Who scrolls to the end wants to see more: it is asked for once for every end that there is.
  let asked = 0
  let seen = 0
  view.studio_more?.disconnect()
  view.studio_more = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting) && order.length > asked) {
      asked = order.length
      act({type: "more"})
    }
  }, {rootMargin: "400px"})
  view.studio_more.observe(more)

  listen(model, view, {show: ({view: list}) => {
    failed.show(list.failed)
    wait.hidden = !list.loading
    if (list.loading || !list.order) return
    drawFilters(list.filters.map(({key, label, count}) => ({id: key, label, count, on: key === list.status})))
    showSearch(list.q)
    drawFields({fields: list.fields, signs: list.signs})
    drawConditions(list.where)
    drawTags(list.tags.slice(0, 12).map(({tag, count, on}) => ({id: tag, label: tag, count, on})))
    drawGroups(list.groups)
    group.value = list.group
    refused.show(list.refused)
    order = list.order
    if (order.length < asked) asked = 0
    for (const value of list.rows) {
      if (!rows.has(value.id)) rows.set(value.id, makeRow(value.id))
      rows.get(value.id).update(value)
    }
    const unfoldNow = takeUnfolded(list.unfolded)
    arrange(Boolean(list.group))
    unfoldNow?.()
    sorted = list.sort
    for (const cell of heads) {
      const button = cell.querySelector("[data-sort]")
      const key = button?.dataset.sort.replace("-", "")
      if (key && key === sorted.replace("-", "")) cell.setAttribute("aria-sort", sorted.startsWith("-") ? "descending" : "ascending")
      else cell.removeAttribute("aria-sort")
    }
    const number = chosen().length
    all.checked = number > 0 && number === order.length
    all.indeterminate = number > 0 && number < order.length
    all.setAttribute("aria-label", order.length < list.matching ? `Select the ${order.length} that are shown` : `Select all ${order.length}`)
    bar.hidden = !list.selection
    if (list.selection) {
      setText(selectedLabel, list.selection.label)
      drawBulk(list.selection)
    }
    asking.hidden = !list.asking
    drawAsking({question: list.asking, busy: list.busy, problem: list.problem})
    table.hidden = order.length === 0
    empty.hidden = order.length > 0 || Boolean(list.refused)
    drawEmpty(list.searching)
    const none = order.length === 0 && !list.searching
    filterBar.hidden = search.hidden = second.hidden = none
    more.hidden = order.length >= list.matching
    if (order.length !== seen) {
      // Where the end is in sight again before it was ever seen to be out of it, nobody would hear of it.
      seen = order.length
      view.studio_more.unobserve(more)
      view.studio_more.observe(more)
    }
    setText(more, `Show more (${order.length} of ${list.matching})`)
  }, described: ({id, problem}) => {
    if (id !== unfolded?.id || !editing) return
    if (problem) return noting.answered(problem)
    editing = false
    // As it was before the form, whether the new note or this answer comes first.
    openBefore ? describe(false) : unfold(unfolded.id)
  }})
  table.hidden = true
  return el("section", {class: "surface", "aria-label": "Trainings"},
    el("div", {class: "top"}, el("h1", {}, "Trainings"), filterBar, search), second,
    failed.box, refused.box, el("div", {class: "sticky"}, bar, asking), wait, table, empty, more)
}
