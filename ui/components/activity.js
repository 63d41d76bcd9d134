// Who did what, the newest first, a heading for every day; older ones come by scrolling.
const day = (us) => new Date(us / 1000).toLocaleDateString("en", {weekday: "long", day: "numeric", month: "long", year: "numeric"})

export function render({model, view}) {
  const act = (message) => model.send_msg(message)

  const kind = chooser("About", (chosen) => act({type: "kind", kind: chosen}))
  const actor = chooser("By", (chosen) => act({type: "actor", actor: chosen}))
  const failed = notice("bad", el("button", {type: "button", onclick: () => act({type: "retry"})}, "Retry"))
  const wait = bones(8)
  const empty = el("div", {class: "empty", hidden: true}, el("h2", {}, "Nothing like this has been done"),
    el("p", {class: "quiet"}, "Whatever somebody does, here or on the command line, appears here with who did it."),
    el("button", {type: "button", onclick: () => act({type: "clear"})}, "Show everything"))
  const deeds = el("div", {class: "deeds"})
  const end = el("p", {class: "end quiet"}, "This is where the log begins.")
  const more = el("button", {type: "button", class: "more", onclick: () => act({type: "more"})}, "Show older")
  let asked = ""
  let oldest = ""
  view.studio_older?.disconnect()
  view.studio_older = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting) && oldest !== asked) {
      asked = oldest
      act({type: "more"})
    }
  }, {rootMargin: "400px"})
  view.studio_older.observe(more)

  const rows = new Map()
  const days = new Map()
  const makeRow = () => {
    const time = el("time")
    const said = el("span", {class: "what"})
    const who = el("span", {class: "who quiet"})
    const row = el("li", {}, time, said, who)
    return {row, update: part(row, (value) => {
      rows.get(value.id).value = value
      const at = new Date(value.timestamp / 1000)
      time.dateTime = at.toISOString()
      time.title = clock(value.timestamp, true)
      setText(time, clock(value.timestamp, false).slice(0, -4))
      setClass(row, `tone-${value.tone}`)
      said.replaceChildren(el("span", {class: "deed"}, value.what), ...(value.subject
        ? [el(value.href ? "a" : "span", {class: "subject", href: value.href || null}, value.subject)] : []))
      setText(who, value.who ? `by ${value.who}` : "")
    })}
  }
  const arrange = (order) => {
    const lists = new Map()
    for (const id of order) {
      const name = day(rows.get(id).value.timestamp)
      if (!lists.has(name)) lists.set(name, [])
      lists.get(name).push(rows.get(id).row)
    }
    for (const [name, found] of lists) {
      if (!days.has(name)) {
        const list = el("ol", {"aria-label": name})
        days.set(name, {node: el("section", {class: "day"}, el("h2", {}, name), list), list})
      }
      place(days.get(name).list, found)
    }
    for (const id of rows.keys()) if (!order.includes(id)) rows.delete(id)
    for (const name of days.keys()) if (!lists.has(name)) days.delete(name)
    place(deeds, [...lists.keys()].map((name) => days.get(name).node))
  }

  listen(model, view, {show: ({view: page}) => {
    failed.show(page.failed)
    wait.hidden = !page.loading
    kind.show(page.kinds.list, page.kinds.value)
    actor.show(page.actors.list, page.actors.value)
    const order = page.order ?? []
    for (const value of page.rows ?? []) {
      if (!rows.has(value.id)) rows.set(value.id, {...makeRow(), value})
      rows.get(value.id).update(value)
    }
    arrange(order)
    more.hidden = !page.more
    if (!page.more) asked = ""
    if (oldest !== (order.at(-1) ?? "")) {
      // Where the end is in sight again before it was ever seen to be out of it, nobody would hear of it.
      oldest = order.at(-1) ?? ""
      view.studio_older.unobserve(more)
      view.studio_older.observe(more)
    }
    empty.hidden = page.loading || Boolean(page.failed) || order.length > 0
    end.hidden = page.loading || page.more || page.filtered || order.length === 0
  }})
  return el("section", {class: "surface", "aria-label": "Activity"},
    el("div", {class: "top"}, el("h1", {}, "Activity"), el("label", {}, el("span", {}, "About"), kind.box),
      el("label", {}, el("span", {}, "By"), actor.box)),
    failed.box, wait, empty, deeds, more, end)
}
