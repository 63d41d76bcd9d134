// The dialogs of the templates page: an import before it is made, and what became of a template.

// Reads a file that somebody picks. What is too long to be sent is refused here.
function templateFile(act) {
  const longest = 4_000_000
  const picker = el("input", {type: "file", accept: ".json,application/json", hidden: true, "aria-label": "File of templates",
    onchange: async () => {
      const [file] = picker.files
      picker.value = ""
      if (!file) return
      if (file.size > longest) act({type: "too_long", name: file.name, size: file.size})
      else act({type: "import", name: file.name, content: await file.text()})
    }})
  return picker
}

function importDialog(act, another) {
  const file = el("p", {class: "quiet"})
  const summary = el("p", {})
  const wait = bones(3)
  const entries = el("ul", {class: "entries", tabindex: 0, "aria-label": "Templates in the file"})
  const drawEntries = keyed(entries, (index) => {
    const state = el("span")
    const name = el("span", {class: "name"})
    const note = el("p", {class: "quiet"})
    const choice = chooser("", (value) => act({type: "choose", index, choice: value}))
    const root = el("li", {}, state, el("div", {class: "what"}, name, note), choice.box)
    return {root, update(entry) {
      setClass(state, `status ${entry.tone}`)
      setText(state, entry.outcome)
      setText(name, entry.name)
      setText(note, entry.note)
      choice.box.hidden = !entry.choice
      choice.box.setAttribute("aria-label", `What becomes of ${entry.name}`)
      if (entry.choice) choice.show(entry.choices, entry.choice)
    }}
  })
  const all = el("div", {class: "all", role: "group", "aria-label": "All that conflict"})
  const drawAll = part(all, (choices, node) => node.replaceChildren(el("span", {class: "quiet"}, "All that conflict:"),
    ...choices.map(([choice, label]) => el("button", {type: "button", class: "small", onclick: () => act({type: "choose", choice})}, label))))
  const problem = notice("bad")
  const confirm = el("button", {type: "submit", class: "main"})
  return modal("Import templates", () => act({type: "import_cancel"}), el("form", {method: "dialog", onsubmit: (event) => {
    event.preventDefault()
    act({type: "import_now"})
  }}, el("h2", {}, "Import templates"), file, summary, problem.box, wait, all, entries,
  el("div", {class: "buttons"}, el("button", {type: "button", onclick: another}, "Another file…"), el("span", {class: "space"}),
    el("button", {type: "button", "data-first": "", onclick: () => act({type: "import_cancel"})}, "Cancel"), confirm)), {
    wide: true,
    update(next) {
      setText(file, next.entries ? `${next.file} – nothing has been written yet.` : next.file)
      setText(summary, next.summary ?? "")
      problem.show(next.problem)
      wait.hidden = !next.loading
      entries.hidden = !next.entries?.length
      drawEntries((next.entries ?? []).map((entry) => ({...entry, id: entry.index, choices: next.choices})))
      all.hidden = !(next.conflicts > 1)
      if (next.choices) drawAll(next.choices)
      confirm.hidden = !next.entries
      confirm.disabled = next.busy || !next.writes
      setText(confirm, next.busy ? "Importing…" : next.confirm ?? "")
    },
  })
}

function historyDialog(act) {
  let newest = 0
  const title = el("h2", {})
  const wait = bones(3)
  const entries = el("ol", {class: "entries versions", tabindex: 0, "aria-label": "Versions, the newest first"})
  const drawEntries = keyed(entries, (version) => {
    const what = el("p", {class: "told"})
    const who = el("p", {class: "quiet"})
    const now = el("span", {class: "status info"}, "now")
    const restore = el("button", {type: "button", class: "small", "aria-label": `Restore version ${version}`,
      onclick: () => act({type: "restore", version, newest})}, "Restore")
    const root = el("li", {}, el("span", {class: "number"}, String(version)), el("div", {class: "what"}, what, who), now, restore)
    return {root, update(entry) {
      setText(what, entry.what)
      setText(who, `${entry.who}, ${entry.when}`)
      who.title = clock(entry.time, true).slice(0, 19)
      now.hidden = !entry.current
      restore.hidden = !entry.restorable
      restore.disabled = entry.busy
    }}
  })
  const said = notice("plain")
  const problem = notice("bad")
  return modal("History", () => act({type: "history_close"}), el("div", {class: "form"}, title, problem.box, said.box, wait, entries,
    el("div", {class: "buttons"}, el("span", {class: "space"}),
      el("button", {type: "button", "data-first": "", onclick: () => act({type: "history_close"})}, "Close"))), {
    wide: true,
    update(next) {
      setText(title, `History of ${next.name}`)
      wait.hidden = Boolean(next.entries || next.problem)
      entries.hidden = !next.entries
      newest = next.entries?.[0]?.version ?? 0
      drawEntries((next.entries ?? []).map((entry) => ({...entry, id: entry.version, busy: next.busy})))
      said.show(next.said)
      problem.show(next.problem)
    },
  })
}
