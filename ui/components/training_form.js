// The form of a new training: template selection, fields, what a start would need, and the dialog that saves a template.
// What is typed is sent as text; what it means, and what is wrong with it, comes back with the next view.

export function render({model, view}) {
  const act = (message) => model.send_msg(message)
  const inSight = () => view.shadow_el.activeElement

  // Template selection. What is picked is shown only once it is loaded.
  const select = el("select", {"aria-label": "Load template", onchange: () => {
    const wanted = select.value
    select.value = select.dataset.loaded
    if (wanted) act({type: "load", template: wanted})
  }})
  const clear = el("button", {type: "button", class: "icon", "aria-label": "Clear the template selection", title: "Clear the selection",
    onclick: () => act({type: "unload"})}, "×")
  const hint = el("span", {class: "hint", role: "status"})
  const revert = el("button", {type: "button", class: "text", onclick: () => act({type: "revert"})}, "Revert")
  const loaded = el("p", {class: "loaded"}, hint, revert)
  const option = ([id, name]) => el("option", {value: id}, name)
  const drawTemplates = part(select, ({placeholder, fitting, others}, node) => {
    node.replaceChildren(el("option", {value: ""}, placeholder), ...fitting.map(option),
      ...(others.length ? [el("optgroup", {label: "For other models or data sets"}, ...others.map(option))] : []))
  })

  const name = el("input", {type: "text", maxlength: 255, placeholder: "suggested from the configuration",
    "aria-label": "Name of the training", oninput: () => tell("", {type: "name", name: name.value})})

  // Fields, each drawn once and then only brought up to date. A person may be ahead of what the page has heard: a field
  // takes no value from a view that is older than its last edit.
  const drawn = new Map()
  const pending = new Map()
  const edited = new Map()
  let last = 0
  let heard = 0
  const ahead = (field) => pending.has(field) || (edited.get(field) ?? 0) > heard
  function tell(field, message) {
    edited.set(field, ++last)
    act({...message, number: last})
  }

  function soon(field, value) {
    clearTimeout(pending.get(field))
    pending.set(field, setTimeout(() => now(field, value()), 250))
  }
  function now(field, value) {
    clearTimeout(pending.get(field))
    pending.delete(field)
    tell(field, {type: "edit", field, value})
  }

  const CONTROLS = {
    text(field, id) {
      const list = el("datalist", {id: `${id}-list`})
      const box = el("input", {id, type: "text", autocomplete: "off", spellcheck: "false", list: field.suggestions ? list.id : null,
        inputmode: field.kind === "number" ? "decimal" : null,
        oninput: () => soon(field.name, () => box.value), onchange: () => now(field.name, box.value)})
      const unit = el("span", {class: "unit"})
      const drawList = part(list, (suggestions, node) =>
        node.replaceChildren(...suggestions.map(([value, label]) => el("option", {value, label}))))
      return {main: box, node: el("span", {class: "box"}, box, unit, list), update(next) {
        if (inSight() !== box && !ahead(field.name)) box.value = next.value
        box.placeholder = next.placeholder
        // Where the box is too narrow for it.
        box.title = next.placeholder
        setText(unit, next.unit)
        drawList(next.suggestions ?? [])
      }}
    },
    choice(field, id) {
      const box = el("select", {id, onchange: () => now(field.name, box.value)})
      const draw = part(box, (options, node) => node.replaceChildren(...options.map(([value, label]) => el("option", {value}, label))))
      return {main: box, node: box, update(next) {
        const chosen = ahead(field.name) ? box.value : next.value
        draw(next.options)
        box.value = chosen
      }}
    },
    switch(field, id) {
      const box = el("input", {id, type: "checkbox", onchange: () => now(field.name, box.checked)})
      return {main: box, node: box, update(next) { if (!ahead(field.name)) box.checked = next.value }}
    },
    choices(field, id) {
      const group = el("span", {id, class: "choices", role: "group"})
      let value = []
      let offered = []
      const draw = part(group, ({options, chosen}, node) => {
        const focused = inSight()?.dataset?.option
        node.replaceChildren(...options.map(([option, label]) => el("button", {
          type: "button", class: "toggle", "aria-pressed": String(chosen.includes(option)), "data-option": option,
          onclick: () => {
            value = value.includes(option) ? value.filter((one) => one !== option) : [...value, option]
            // In the order of the options, whatever the order of the clicks.
            const order = options.map(([one]) => one)
            value.sort((a, b) => order.indexOf(a) - order.indexOf(b))
            now(field.name, value)
            show()
          },
        }, label)))
        if (focused) node.querySelector(`[data-option="${CSS.escape(focused)}"]`)?.focus()
      })
      let placeholder = ""
      const show = () => {
        const known = offered.map(([option]) => option)
        // What a model does not have stays to be seen, and can be taken away.
        const extra = value.filter((one) => !known.includes(one)).map((one) => [one, one])
        draw({options: [...offered, ...extra], chosen: value})
        group.dataset.placeholder = value.length ? "" : placeholder
      }
      return {main: group, node: group, update(next) {
        if (!ahead(field.name)) value = next.value
        offered = next.options
        placeholder = next.placeholder
        show()
      }}
    },
    names(field, id) {
      let value = []
      let suggested = []
      let placeholder = ""
      const send = (next) => {
        value = next
        now(field.name, value)
        show()
      }
      const list = el("datalist", {id: `${id}-list`})
      const box = el("input", {id, type: "text", autocomplete: "off", spellcheck: "false", list: list.id,
        onkeydown: (event) => {
          if (event.key === "Enter" || event.key === ",") {
            event.preventDefault()
            add()
          } else if (event.key === "Backspace" && !box.value && value.length) send(value.slice(0, -1))
        },
        // A suggestion that was picked is whole at once.
        oninput: (event) => { if (event.inputType === "insertReplacementText" || !event.inputType) add() },
        onchange: () => add()})
      function add() {
        const text = box.value.trim().replace(/,$/, "")
        box.value = ""
        if (text && !value.includes(text)) send([...value, text])
      }
      const chips = el("span", {class: "chips"})
      const draw = part(chips, (names, node) => node.replaceChildren(...names.map((one) => el("span", {class: "tag"},
        el("span", {}, one), el("button", {type: "button", class: "icon", "aria-label": `Remove ${one}`,
          onclick: () => send(value.filter((other) => other !== one))}, "×")))))
      const drawList = part(list, (suggestions, node) =>
        node.replaceChildren(...suggestions.map(([value, label]) => el("option", {value, label}))))
      const show = () => {
        draw(value)
        box.placeholder = value.length ? "add another" : placeholder
        drawList(suggested.filter(([one]) => !value.includes(one)))
      }
      return {main: box, node: el("span", {class: "box names"}, chips, box, list), update(next) {
        if (!ahead(field.name)) value = next.value
        suggested = next.suggestions ?? []
        placeholder = next.placeholder
        show()
      }}
    },
  }
  CONTROLS.number = CONTROLS.text
  CONTROLS.numbers = CONTROLS.names

  function makeField(field) {
    const id = `field-${field.name}`
    const control = CONTROLS[field.kind](field, id)
    const help = el("p", {class: "help", id: `${id}-help`, hidden: true}, field.help)
    const more = el("button", {type: "button", class: "icon why", "aria-label": `What is ${field.label}?`, title: field.help,
      "aria-expanded": "false", onclick: () => {
        help.hidden = !help.hidden
        more.setAttribute("aria-expanded", String(!help.hidden))
      }}, "?")
    const problem = el("p", {class: "problem", id: `${id}-problem`, hidden: true})
    const note = el("p", {class: "note", hidden: true})
    const text = el(control.main.matches("input, select") ? "label" : "span", {for: id, id: `${id}-label`}, field.label)
    if (!control.main.matches("input, select")) control.main.setAttribute("aria-labelledby", text.id)
    control.main.setAttribute("aria-describedby", `${help.id} ${problem.id}`)
    const root = el("div", {class: `field k-${field.kind}`, "data-field": field.name},
      el("span", {class: "label"}, text, more), control.node, note, problem, help)
    return {root, kind: field.kind, lead() {
      root.scrollIntoView({block: "center"})
      // A group of choices is none of them.
      const first = control.main.matches("input, select") ? control.main : control.main.querySelector("button")
      first?.focus({preventScroll: true})
    }, update(next) {
      control.update(next)
      problem.hidden = !next.problem
      setText(problem, next.problem)
      note.hidden = !next.note
      setText(note, next.note)
      control.main.setAttribute("aria-invalid", String(Boolean(next.problem)))
      root.classList.toggle("wrong", Boolean(next.problem))
    }}
  }

  const fieldOf = (field) => {
    const known = drawn.get(field.name)
    if (known?.kind === field.kind) return known
    const made = makeField(field)
    drawn.set(field.name, made)
    return made
  }

  const groups = el("div", {class: "groups"})
  const advanced = el("button", {type: "button", class: "text", onclick: () => act({type: "advanced"})})

  const sections = new Map()
  // What somebody is about to put right is not folded away at the first letter that makes it right.
  const inside = ({name}) => drawn.get(name)?.root.contains(inSight())
  function drawGroups(list, withAdvanced) {
    const shown = []
    for (const group of list) {
      const fields = group.fields.filter((field) => withAdvanced || !field.advanced || field.problem || inside(field))
      if (!fields.length) continue
      if (!sections.has(group.key)) {
        const grid = el("div", {class: "grid"})
        sections.set(group.key, {grid, root: el("fieldset", {class: "surface group"}, el("legend", {}, group.title), grid)})
      }
      const {grid, root} = sections.get(group.key)
      place(grid, fields.map((field) => {
        const made = fieldOf(field)
        made.update(field)
        return made.root
      }))
      shown.push(root)
    }
    place(groups, shown)
  }

  // What a start would need, and the buttons.
  const needs = el("dl", {class: "needs"})
  const drawNeeds = part(needs, (list, node) => node.replaceChildren(...list.map(({label, value, note, share}) => el("div", {},
    el("dt", {}, label), el("dd", {class: "value"}, value),
    share == null ? null : meter(share), el("dd", {class: "note"}, note)))))
  function meter(share) {
    const bar = el("span", {class: `bar ${share > 1 ? "bad" : share > 0.8 ? "warn" : "info"}`}, el("i"))
    bar.firstChild.style.width = `${Math.min(100, share * 100)}%`
    return bar
  }
  const listed = (node) => part(node, (list) => {
    node.hidden = !list.length
    node.replaceChildren(...list.map(({field, text}) => el("li", {}, field
      ? el("button", {type: "button", class: "lead", title: "Go to the field", onclick: () => lead(field)}, text) : text)))
  })
  let wanted = ""
  function lead(field) {
    wanted = field
    // A field that is folded away is led to when it is there.
    if (!follow()) act({type: "advanced"})
  }
  function follow() {
    const field = drawn.get(wanted)
    if (!field?.root.isConnected) return false
    wanted = ""
    field.lead()
    return true
  }
  const warnings = el("ul", {class: "says warn", "aria-label": "Warnings"})
  const problems = el("ul", {class: "says bad", "aria-label": "Problems"})
  const [drawWarnings, drawProblems] = [listed(warnings), listed(problems)]
  const stand = el("p", {class: "stand", role: "status"})
  const refusal = el("p", {class: "notice bad", role: "alert", hidden: true})
  const start = el("button", {type: "button", class: "main wide", onclick: () => act({type: "start"})}, "Start training")
  const save = el("button", {type: "button", onclick: () => act({type: "ask_save"})}, "Save as template…")
  const update = el("button", {type: "button", onclick: () => act({type: "update"})})
  const reset = el("button", {type: "button", class: "text", onclick: () => act({type: "reset"})}, "Reset the form")
  const side = el("aside", {class: "surface side", "aria-label": "What it takes"},
    el("h2", {}, "What it takes"), stand, needs, problems, warnings, refusal,
    el("div", {class: "buttons"}, start, save, update, reset))

  const saving = templateDialog("Save as template", "Save template", "template", {
    save: (title, description) => act({type: "save", name: title, description}), cancel: () => act({type: "cancel_save"}),
  })

  const failed = notice("bad", el("button", {type: "button", onclick: () => act({type: "retry"})}, "Retry"))
  const wait = bones(4)
  const body = el("div", {class: "columns", hidden: true}, el("div", {class: "left"},
    el("section", {class: "surface load", "aria-label": "Template"},
      el("div", {class: "pick"}, el("span", {class: "label"}, "Load template"), el("span", {class: "box"}, select, clear)),
      el("div", {class: "pick"}, el("span", {class: "label"}, "Name of the training"), name),
      loaded),
    groups, el("p", {class: "fold"}, advanced)), side)

  listen(model, view, {
    show: ({view: form}) => {
      // A page that is drawn anew goes on counting.
      heard = form.heard ?? 0
      last = Math.max(last, heard)
      failed.show(form.failed)
      wait.hidden = !form.loading
      body.hidden = !form.groups
      if (!form.groups) return
      const template = form.template
      drawTemplates({placeholder: template.placeholder, fitting: template.fitting, others: template.others})
      select.dataset.loaded = template.selected
      select.value = template.selected
      select.title = template.loaded
      clear.hidden = !template.selected
      setText(hint, template.hint.text)
      hint.title = template.hint.title
      revert.hidden = !template.hint.revert
      loaded.hidden = !template.hint.text
      if (inSight() !== name && !ahead("")) name.value = form.name
      drawGroups(form.groups, form.advanced)
      follow()
      setText(advanced, form.advanced ? "Hide advanced fields" : "Show advanced fields")
      advanced.setAttribute("aria-expanded", String(form.advanced))
      drawNeeds(form.needs)
      drawProblems(form.problems)
      drawWarnings(form.warnings)
      setText(stand, form.stand)
      stand.classList.toggle("spin", form.busy)
      refusal.hidden = !form.refusal
      setText(refusal, form.refusal)
      start.disabled = form.starting
      setText(start, form.starting ? "Starting…" : "Start training")
      update.hidden = !template.hint.revert
      setText(update, `Update ${template.loaded}`)
      update.title = `Save these changes in the template ${template.loaded}`
      saving.show(form.save)
    },
    keep: ({draft}) => remember("draft", JSON.stringify(draft)),
  })
  act({type: "draft", draft: JSON.parse(recall("draft") ?? "null")})
  return el("div", {class: "page"}, el("h1", {}, "New training"), failed.box, wait, body, saving.box)
}
