// Questions in SQL: editor, samples, what was asked before, the views, and the answer as a table.
const KEPT = 30

export function render({model, view}) {
  const act = (message) => model.send_msg(message)
  // What is in the editor is never replaced by a message: only a person writes there, after the link that led here.
  const keep = () => { view.studio_statement = editor.value }
  const editor = el("textarea", {
    rows: 8, spellcheck: "false", autocapitalize: "off", "aria-label": "Statement", placeholder: "SELECT * FROM trainings",
    oninput: keep,
    onkeydown: (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault()
        ask()
      }
    },
  })
  editor.value = view.studio_statement ?? ""
  const run = el("button", {type: "button", class: "main", title: "Ctrl+Enter", onclick: () => ask()}, "Run")
  const cancel = el("button", {type: "button", hidden: true, onclick: () => act({type: "cancel"})}, "Cancel")
  const doing = el("span", {class: "quiet", role: "status"})

  function ask() {
    if (run.disabled) return
    const statement = editor.value
    const before = asked().filter((one) => one !== statement)
    if (statement.trim()) remember("sql", JSON.stringify([statement, ...before].slice(0, KEPT)))
    drawHistory(asked())
    act({type: "run", statement})
  }

  function asked() {
    try {
      const kept = JSON.parse(recall("sql") ?? "[]")
      return Array.isArray(kept) ? kept.filter((one) => typeof one === "string") : []
    } catch {
      return []
    }
  }

  const choice = (label, lead) => el("select", {"aria-label": label, onchange: (event) => {
    if (event.target.selectedIndex > 0) fill(event.target.value)
    event.target.selectedIndex = 0
  }}, el("option", {value: ""}, lead))
  const samples = choice("Samples", "Samples")
  const history = choice("History", "History")
  const offer = (select, entries) => {
    while (select.options.length > 1) select.options[1].remove()
    select.append(...entries.map(([label, value]) => el("option", {value}, label)))
    select.hidden = !entries.length
  }
  const drawHistory = part(history, (list) => offer(history, list.map((one) => [one.replace(/\s+/g, " ").slice(0, 80), one])))

  function fill(statement) {
    editor.value = statement
    keep()
    editor.focus()
  }

  function insert(text) {
    editor.setRangeText(text, editor.selectionStart, editor.selectionEnd, "end")
    keep()
    editor.focus()
  }

  const link = copyButton("Copy link", () => {
    const url = new URL(document.location.href)
    url.search = `?${new URLSearchParams({page: "sql", q: editor.value})}`
    return {content: url.href}
  })

  const tree = el("div", {class: "tree"})
  const drawTree = part(tree, (schema) => {
    offer(samples, Object.entries(schema.questions))
    tree.replaceChildren(...schema.views.map(({name, comment, columns}) => el("details", {},
      el("summary", {title: comment}, name),
      el("ul", {}, ...Object.entries(columns).map(([column, said]) => el("li", {},
        el("button", {type: "button", class: "text", title: said, onclick: () => insert(column)}, column)))))))
  })

  const problem = el("div", {class: "notice bad", role: "alert", hidden: true}, el("span"))
  const summary = el("p", {class: "quiet"})
  const cut = el("div", {class: "notice warn", hidden: true}, el("span"))
  const table = el("table", {"aria-label": "Answer"})
  let drawn = null
  const csv = el("button", {type: "button", onclick: () => save()}, "Download CSV")
  const before = el("p", {class: "quiet", hidden: true}, "This is the answer to the question before.")
  const result = el("div", {class: "result", hidden: true},
    before, el("div", {class: "line"}, summary, csv), cut, el("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": "Rows"}, table))
  const drawAnswer = part(result, (answer) => {
    drawn = answer
    result.hidden = !answer
    if (!answer) return
    setText(summary, answer.summary)
    cut.hidden = !answer.cut
    setText(cut.firstChild, answer.cut)
    const cell = (value, index) => el("td", {class: value == null ? "null" : answer.numeric[index] ? "number" : null}, value ?? "NULL")
    table.replaceChildren(
      el("thead", {}, el("tr", {}, ...answer.columns.map(({name, type}, index) =>
        el("th", {scope: "col", title: type, class: answer.numeric[index] ? "number" : null}, name)))),
      el("tbody", {}, ...answer.rows.map((row) => el("tr", {}, ...row.map(cell)))))
  })

  function save() {
    const quoted = (value) => value == null ? "" : /[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value
    const lines = [drawn.columns.map(({name}) => name), ...drawn.rows].map((row) => row.map(quoted).join(","))
    const url = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], {type: "text/csv"}))
    el("a", {href: url, download: "answer.csv"}).click()
    setTimeout(() => URL.revokeObjectURL(url), 10_000)
  }

  listen(model, view, {show: ({view: page}) => {
    if (view.studio_statement === undefined) {
      editor.value = page.statement
      keep()
    }
    run.disabled = Boolean(page.doing)
    cancel.hidden = !page.doing
    setText(doing, page.doing)
    setClass(doing, page.doing ? "quiet spin" : "quiet")
    problem.hidden = !page.problem
    setText(problem.firstChild, page.problem)
    if (page.schema) drawTree(page.schema)
    drawAnswer(page.answer)
    setClass(result, page.before ? "result before" : "result")
    before.hidden = !page.before
  }})
  drawHistory(asked())
  return el("section", {class: "surface", "aria-label": "SQL"},
    el("div", {class: "top"}, el("h1", {}, "SQL"), el("p", {class: "quiet"}, "Every step, log line and decision, in DuckDB's SQL. Nothing asked here can harm the log.")),
    el("div", {class: "columns"},
      el("div", {class: "ask"}, editor, el("div", {class: "line"}, run, cancel, doing, el("span", {class: "space"}), samples, history, link), problem, result),
      el("nav", {"aria-label": "Views"}, el("h2", {}, "Views"), tree)))
}
