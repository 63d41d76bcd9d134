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
    // How the answer is drawn is part of the address already.
    const url = new URL(document.location.href)
    url.searchParams.set("page", "sql")
    url.searchParams.set("q", editor.value)
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
  let whole = {}
  const files = el("div", {class: "files", role: "group", "aria-label": "Download"}, ...[["csv", "CSV"], ["parquet", "Parquet"], ["arrow", "Arrow"]]
    .map(([form, label]) => el("button", {type: "button", "data-form": form, title: "The whole answer, not only what is shown here",
      onclick: () => save(form, label)}, `Download ${label}`)))
  const saving = el("p", {class: "quiet", role: "status", hidden: true})
  const before = el("p", {class: "quiet", hidden: true}, "This is the answer to the question before.")
  const result = el("div", {class: "result", hidden: true},
    before, el("div", {class: "line"}, summary, files), saving, cut, el("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": "Rows"}, table))
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

  // The server sends the whole answer past the page's own process. A second click takes the first one back.
  let under_way = null
  async function save(form, label) {
    under_way?.abort()
    if (under_way?.form === form) return
    const mine = under_way = Object.assign(new AbortController(), {form})
    const say = (text) => {
      if (under_way !== mine && under_way !== null) return
      saving.hidden = !text
      setText(saving, text)
    }
    say(`The answer is coming as ${label}; a second click stops that.`)
    let problem = ""
    try {
      const answer = await fetch("api/v1/sql", {method: "POST", signal: mine.signal, headers: {"Content-Type": "application/json"},
        body: JSON.stringify({statement: drawn.statement, format: form, ...whole})})
      if (answer.ok) {
        const url = URL.createObjectURL(await answer.blob())
        el("a", {href: url, download: `answer.${form}`}).click()
        setTimeout(() => URL.revokeObjectURL(url), 10_000)
      } else {
        problem = (await answer.json().catch(() => ({}))).detail ?? `The server answered ${answer.status}.`
      }
    } catch {
      problem = mine.signal.aborted ? "" : form === "arrow" ? "The server's answer broke off."
        : `The server's answer broke off: it went wrong on the way, or has more than ${whole.limit.toLocaleString("en")} rows, which ${label} cannot say.`
    }
    if (under_way === mine) under_way = null
    say(problem)
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
    whole = page.whole
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
