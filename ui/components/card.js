// The head of a training's page.
export function render({model, view}) {
  const act = (message) => model.send_msg(message)

  const name = el("h1")
  const pencil = el("button", {type: "button", class: "text pencil", title: "Rename", "aria-label": "Rename",
    onclick: () => edit(true)}, "✎")
  const typed = el("input", {type: "text", "aria-label": "Name", "aria-describedby": "problem", autocomplete: "off",
    onkeydown: (event) => { if (event.key === "Escape") edit(false) }})
  const save = el("button", {type: "submit", class: "main"}, "Save")
  const problem = el("p", {class: "problem", id: "problem", role: "alert"})
  const form = el("form", {class: "rename", hidden: true, onsubmit: (event) => {
    event.preventDefault()
    const wanted = typed.value.trim()
    if (wanted === name.textContent) return edit(false)
    setText(problem, "")
    save.disabled = typed.readOnly = true
    act({type: "rename", name: wanted})
  }}, typed, save, el("button", {type: "button", onclick: () => edit(false)}, "Cancel"), problem)
  const edit = (on) => {
    form.hidden = !on
    heading.hidden = on
    setText(problem, "")
    save.disabled = typed.readOnly = false
    if (on) {
      typed.value = name.textContent
      typed.select()
      typed.focus()
    } else pencil.focus()
  }
  const heading = el("div", {class: "heading"}, name, pencil)
  const status = el("span", {class: "status quiet", "aria-live": "polite"})
  const verdict = el("span", {class: "verdict", hidden: true})
  const drawVerdict = part(verdict, (value, node) => {
    if (!value) return
    setClass(node, `verdict ${value.tone}`)
    node.title = value.title
    node.replaceChildren(`Evaluation: ${value.label}`, el("span", {class: "unseen"}, `. ${value.title}`))
  })
  const chips = el("div", {class: "chips"})
  const buttons = el("div", {class: "buttons"})
  const links = el("div", {class: "links"})
  const refusal = el("div", {class: "notice warn", role: "alert", hidden: true}, el("span"),
    el("button", {type: "button", class: "text", onclick: () => act({type: "dismiss"})}, "Close"))
  const deleting = el("div", {class: "notice bad", role: "alertdialog", "aria-label": "Delete this training", hidden: true,
    onkeydown: (event) => { if (event.key === "Escape") act({type: "keep"}) }}, el("span"),
    el("button", {type: "button", class: "danger", onclick: () => act({type: "delete"})}, "Delete for good"),
    el("button", {type: "button", onclick: () => act({type: "keep"})}, "Keep it"))
  const gone = el("div", {class: "notice plain", role: "status", hidden: true}, el("span"),
    el("a", {class: "button", href: "./"}, "All trainings"))
  const alert = el("div", {class: "notice bad", hidden: true}, el("span"))
  const bar = el("div", {class: "bar", role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0, "aria-valuemax": 100},
    el("i"))
  const times = el("p", {class: "times"})
  const facts = el("dl", {class: "facts"})
  const noteText = el("div", {class: "note-text", role: "group", "aria-label": "Note"})
  const drawNote = part(noteText, (nodes, node) => node.replaceChildren(...markdown(nodes)))
  const noteButton = el("button", {type: "button", class: "small", onclick: () => describe(true)}, "Add note")
  const noting = noteForm({
    send: (changes) => act({type: "describe", ...changes}),
    leave: () => {
      describe(false)
      noteButton.focus()
    },
  })
  const noted = el("div", {class: "noted none"}, noteText, noteButton, noting.form)
  let source = ""
  const describe = (on) => {
    noting.form.hidden = !on
    noteButton.hidden = on
    noteText.hidden = on || !source
    setClass(noted, on || source ? "noted" : "noted none")
    if (on) noting.fill({note: source})
  }
  noting.form.hidden = true
  const notice = el("div", {class: "notice bad", role: "alert", hidden: true}, el("span"),
    el("button", {type: "button", onclick: () => act({type: "retry"})}, "Retry"))
  const bones = el("div", {class: "bones", "aria-hidden": "true"},
    el("div", {class: "bone wide"}), el("div", {class: "bone"}), el("div", {class: "bone tall"}))
  const whole = el("div", {class: "whole", hidden: true},
    el("div", {class: "top"}, el("div", {class: "title"}, heading, form, status, verdict, chips),
      el("div", {class: "doing"}, buttons, links)),
    refusal, deleting, alert, el("div", {class: "progress"}, bar, times), facts, noted)

  const drawChips = part(chips, (list, node) => node.replaceChildren(
    ...list.map(({label, title, href}) =>
      el(href ? "a" : "span", {class: "chip", title: `${title}: ${label}`, href}, label))))
  const drawButtons = part(buttons, (list, node) => {
    const focused = view.shadow_el.activeElement?.dataset?.action
    node.replaceChildren(...list.map((button) => el("button", {
      type: "button", class: `${button.tone} ${button.busy ? "spin" : ""}`, disabled: !button.enabled,
      "data-action": button.name, onclick: () => act({type: "control", action: button.name}),
    }, button.label)))
    if (focused) node.querySelector(`[data-action="${focused}"]`)?.focus()
  })
  const drawLinks = part(links, (list, node) => node.replaceChildren(...list.map(({label, href, title, download}) =>
    el("a", {class: "button small", href, title, download}, label))))
  const values = []
  const drawFacts = part(facts, (list, node) => {
    if (values.length !== list.length) {
      values.splice(0, values.length, ...list.map(() => ({label: el("dt"), value: el("dd", {class: "value"}), note: el("dd", {class: "note"})})))
      node.replaceChildren(...values.map(({label, value, note}) => el("div", {}, label, value, note)))
    }
    list.forEach((fact, index) => {
      for (const key of ["label", "value", "note"]) setText(values[index][key], fact[key])
    })
  })

  const takeNote = (said) => {
    source = said.note
    drawNote(said.note_tree)
    setText(noteButton, source ? "Edit note" : "Add note")
    if (noting.form.hidden) describe(false)
    else noting.meanwhile({note: source})
  }

  listen(model, view, {show: ({view: card}) => {
    notice.hidden = !card.failed
    if (card.failed) setText(notice.firstChild, card.failed)
    bones.hidden = !card.loading
    gone.hidden = !card.gone
    setText(gone.firstChild, card.gone)
    whole.hidden = !card.name
    if (!card.name) return
    setText(name, card.name)
    name.title = card.name
    setText(status, card.label)
    status.title = card.standing
    setClass(status, `status ${card.tone}`)
    verdict.hidden = !card.verdict
    drawVerdict(card.verdict)
    drawChips(card.chips)
    drawButtons(card.actions)
    drawLinks(card.links)
    refusal.hidden = !card.refusal
    setText(refusal.firstChild, card.refusal ?? "")
    const asked = !deleting.hidden
    deleting.hidden = !card.deleting
    setText(deleting.firstChild, card.deleting)
    // Whoever asked is led to the question, and from its answer back to where they were.
    if (card.deleting && !asked) deleting.lastChild.focus()
    if (!card.deleting && asked) buttons.querySelector('[data-action="delete"]')?.focus()
    alert.hidden = !card.alert
    if (card.alert) {
      setClass(alert, `notice ${card.alert.tone}`)
      setText(alert.firstChild, card.alert.text)
    }
    bar.hidden = card.done == null
    setClass(bar, `bar ${card.tone}`)
    bar.firstChild.style.width = `${(card.done ?? 0) * 100}%`
    bar.setAttribute("aria-valuenow", Math.floor((card.done ?? 0) * 100))
    setText(times, card.times.join(" · "))
    drawFacts(card.facts)
    if (card.note != null) takeNote(card)
  }, note: ({view: note}) => takeNote(note), described: ({problem: why}) => {
    if (noting.form.hidden) return
    if (why) return noting.answered(why)
    describe(false)
    noteButton.focus()
  }, renamed: ({problem: why}) => {
    if (form.hidden) return
    if (!why) return edit(false)
    save.disabled = typed.readOnly = false
    setText(problem, why)
    typed.focus()
  }})
  return el("div", {class: "page"},
    el("nav", {}, el("a", {href: "./"}, "← Trainings")),
    el("section", {class: "surface", "aria-label": "Training"}, notice, gone, bones, whole))
}
