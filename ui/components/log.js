// A training's log. Lines arrive as messages and only those in sight are in the document.

const ROW = 20
const KEPT = 20000
const LEVELS = [["", "All levels"], ["INFO", "Info and above"], ["WARNING", "Warnings and above"], ["ERROR", "Errors only"]]

export function render({model, view}) {
  const act = (message) => model.send_msg(message)
  let rows = []
  let first = null
  let more = false
  let asked = false
  let follow = true
  let begun = null
  let searching = false
  const unfolded = new Set()
  let recalled = false
  let place = ""

  const toggle = el("button", {type: "button", class: "text", onclick: () => {
    const open = toggle.getAttribute("aria-expanded") !== "true"
    remember(place, open ? "open" : "closed")
    act({type: "toggle", open})
  }})
  let typing = null
  const search = el("input", {
    type: "search", placeholder: "Search the whole log", "aria-label": "Search the log", maxlength: 200,
    oninput: () => {
      clearTimeout(typing)
      typing = setTimeout(() => {
        typing = null
        act({type: "search", q: search.value})
      }, 250)
    },
  })
  const level = el("select", {"aria-label": "Level", onchange: () => act({type: "level", level: level.value})},
    ...LEVELS.map(([value, label]) => el("option", {value}, label)))
  const followBox = el("input", {type: "checkbox", onchange: () => {
    follow = followBox.checked
    if (follow) toEnd()
  }})
  const copy = copyButton("Copy", () => {
    const {content, lines} = selected() ?? {content: rows.map(plain).join("\n"), lines: linesOf(rows)}
    return {content, done: `Copied ${lines.toLocaleString("en")} line${lines === 1 ? "" : "s"}`}
  }, {title: "Copy the selected lines, or all that are loaded"})
  const download = el("a", {class: "button", download: true, title: "Download the whole log as text"}, "Download")
  const tools = el("div", {class: "tools"}, search, level, el("label", {class: "follow"}, followBox, "Follow"), copy, download)

  const canvas = el("div", {class: "canvas"})
  const scroller = el("div", {class: "scroller", tabindex: "0", role: "log", "aria-label": "Log lines", hidden: true}, canvas)
  const note = el("p", {class: "note quiet", role: "status"})
  const notice = el("div", {class: "notice bad", role: "alert", hidden: true}, el("span"),
    el("button", {type: "button", onclick: () => act({type: "retry"})}, "Retry"))
  const body = el("div", {class: "body"}, notice, note, scroller)

  const atEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < ROW
  const toEnd = () => {
    scroller.scrollTop = scroller.scrollHeight
    draw()
  }
  const ask = (on) => {
    asked = on
    scroller.setAttribute("aria-busy", String(on))
  }
  const setFollow = (on) => {
    follow = on
    followBox.checked = on
  }

  // A message of several lines takes as many rows; the first carries time and level. One with a traceback is folded to
  // its first line, which keeps the `rest`; a message that is a traceback and nothing else shows what that ends in.
  const toRows = ([version, timestamp, name, logger, message]) => {
    const lines = message.split("\n").map((text, index) => ({
      version, level: name, text, time: index === 0 ? clock(timestamp, false) : "", date: clock(timestamp, true), logger,
      first: index === 0,
    }))
    if (lines.length === 1 || !lines.some(({text}) => text.startsWith("Traceback (most recent call last)"))) return lines
    const [head, ...rest] = lines
    head.rest = rest
    head.folded = !unfolded.has(version) && !searching
    if (head.text.startsWith("Traceback")) head.short = rest.findLast(({text}) => text.trim())?.text ?? head.text
    return head.folded ? [head] : lines
  }

  const plain = (row) => (row.first ? `${row.date} ${row.level} ${row.logger}: ${row.text}` : row.text)
    + (row.folded ? `\n${row.rest.map(({text}) => text).join("\n")}` : "")
  const linesOf = (some) => some.reduce((sum, row) => sum + 1 + (row.folded ? row.rest.length : 0), 0)

  function fold(head) {
    const at = rows.indexOf(head)
    if (at < 0) return
    if (head.folded) rows.splice(at + 1, 0, ...head.rest)
    else rows.splice(at + 1, head.rest.length)
    head.folded = !head.folded
    head.folded ? unfolded.delete(head.version) : unfolded.add(head.version)
    setFollow(false)
    nodes.get(head)?.remove()
    nodes.delete(head)
    drawn = ""
    draw()
    nodes.get(head)?.querySelector("button")?.focus()
  }

  // The lines that a selection touches, whole; within one line what is selected of it. Null where nothing is.
  const selected = () => {
    const selection = view.shadow_el.getSelection?.() ?? document.getSelection()
    if (!selection?.rangeCount || selection.isCollapsed) return null
    const range = selection.getRangeAt(0)
    const touched = rows.filter((row) => nodes.has(row) && range.intersectsNode(nodes.get(row)))
    if (!touched.length) return null
    const part = range.toString()
    return {content: touched.length === 1 && part ? part : touched.map(plain).join("\n"), lines: linesOf(touched)}
  }

  const drawLine = (row) => el("div", {
    class: `line at-${row.level.toLowerCase()}`, "data-version": row.version, "data-first": row.first,
    title: `${row.date} ${row.level} ${row.logger}`,
  }, el("span", {class: "time"}, row.time), el("span", {class: "level"}, row.first ? row.level : ""),
  row.rest ? el("button", {type: "button", class: "fold", "aria-expanded": String(!row.folded), onclick: () => fold(row)},
    row.folded ? `Traceback, ${row.rest.length} lines` : "Fold") : null,
  el("span", {class: "text"}, row.folded ? row.short ?? row.text : row.text))

  // A line that stays in sight keeps its element: a selection would be lost with it.
  const nodes = new Map()
  let drawn = ""
  function draw() {
    const from = Math.max(0, Math.floor(scroller.scrollTop / ROW) - 10)
    const to = Math.min(rows.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / ROW) + 10)
    const now = `${from} ${to}`
    if (now === drawn) return
    drawn = now
    canvas.style.height = `${rows.length * ROW}px`
    const inSight = rows.slice(from, to)
    const staying = new Set(inSight)
    for (const [row, node] of nodes) {
      if (staying.has(row)) continue
      node.remove()
      nodes.delete(row)
    }
    let next = canvas.firstChild
    inSight.forEach((row, index) => {
      if (!nodes.has(row)) nodes.set(row, drawLine(row))
      const node = nodes.get(row)
      node.style.top = `${(from + index) * ROW}px`
      if (node === next) next = next.nextSibling
      else canvas.insertBefore(node, next)
    })
  }

  function take({mode, lines, more: older}) {
    const wasAtEnd = follow
    if (mode === "reset") {
      rows = []
      first = null
    }
    if (mode === "prepend") {
      const fresh = lines.flatMap(toRows)
      rows = fresh.concat(rows)
      if (lines.length) first = lines[0][0]
      canvas.style.height = `${rows.length * ROW}px`
      scroller.scrollTop += fresh.length * ROW
    } else {
      for (const line of lines) rows.push(...toRows(line))
      if (lines.length) first = first ?? lines[0][0]
      if (rows.length > KEPT && follow) {
        rows = rows.slice(rows.length - KEPT)
        // What is left of a message whose beginning is gone goes with it.
        rows = rows.slice(rows.findIndex((row) => row.first))
        first = rows[0].version
        more = true
      }
    }
    if (mode !== "append") {
      more = older
      ask(false)
    }
    drawn = ""
    canvas.style.height = `${rows.length * ROW}px`
    if (wasAtEnd && mode !== "prepend") toEnd()
    else draw()
  }

  scroller.addEventListener("scroll", () => {
    draw()
    setFollow(atEnd())
    if (more && !asked && first !== null && scroller.scrollTop < 10 * ROW) {
      ask(true)
      act({type: "older", before: first})
    }
  }, {passive: true})
  new ResizeObserver(() => {
    if (follow) scroller.scrollTop = scroller.scrollHeight
    draw()
  }).observe(scroller)

  setFollow(true)
  listen(model, view, {
    show: ({view: log}) => {
      place = `${log.place}:log`
      download.setAttribute("href", log.download)
      setText(toggle, log.open ? "Hide" : "Show log")
      toggle.setAttribute("aria-expanded", String(log.open))
      body.hidden = !log.open
      tools.hidden = !log.open
      level.value = log.level
      searching = Boolean(log.q)
      // What was typed and not told yet is newer than what comes.
      if (typing === null && view.shadow_el.activeElement !== search) search.value = log.q
      setText(note, log.note)
      note.hidden = !log.note
      scroller.hidden = Boolean(log.note)
      notice.hidden = !log.failed
      setText(notice.firstChild, log.failed)
      // Drawn anew after the lines were sent: they went to the drawing before.
      if (!recalled) {
        recalled = true
        if (log.open && recall(place) === "closed") return act({type: "toggle", open: false})
      }
      if (log.beginning !== null && log.beginning !== begun) act({type: "drawn"})
    },
    lines: (message) => {
      if (message.mode === "reset") {
        setFollow(true)
        begun = message.beginning
      }
      // What is added to lines that went to an earlier drawing would stand here without them.
      if (message.beginning === begun) take(message)
    },
  })
  return el("section", {class: "surface", "aria-label": "Log"},
    el("div", {class: "top"}, el("h2", {}, "Log"), tools, toggle), body)
}
