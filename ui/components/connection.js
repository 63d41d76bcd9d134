// Whether what is seen is live. Two links can break: the API's (Python says so) and the page's own (found out here).

// The page scrolls in an element of the shell, which no browser puts back in its place when it loads the page anew.
const scroller = () => {
  for (const root of Bokeh.index.roots) {
    const found = root.shadow_el?.querySelector(".main-content")
    if (found) return found
  }
  return null
}

function keepPlace() {
  addEventListener("pagehide", () => {
    const top = scroller()?.scrollTop
    if (top != null) remember("place", JSON.stringify({url: location.search, top}))
  })
  const kept = JSON.parse(recall("place") ?? "null")
  if (!kept?.top || kept.url !== location.search) return
  // What belongs there comes bit by bit and moves what is below it: hold the place until the page has kept its height
  // for a while, or until somebody scrolls.
  const over = new AbortController()
  for (const sign of ["wheel", "touchmove", "pointerdown", "keydown", "popstate"]) {
    addEventListener(sign, () => over.abort(), {signal: over.signal, passive: true, capture: true})
  }
  const until = performance.now() + 20000
  let height = 0
  let since = 0
  const hold = (now) => {
    if (over.signal.aborted) return
    const box = scroller()
    if (box?.scrollHeight !== height) {
      height = box?.scrollHeight
      since = now
    }
    if (box && box.scrollHeight - box.clientHeight >= kept.top) {
      if (Math.abs(box.scrollTop - kept.top) >= 1) box.scrollTop = kept.top
      if (now - since > 2000) return over.abort()
    }
    if (now < until) requestAnimationFrame(hold)
    else over.abort()
  }
  requestAnimationFrame(hold)
}

export function render({model, view}) {
  const chip = el("span", {class: "status quiet", role: "status"}, "connecting…")
  const banner = el("div", {class: "banner", role: "alert", hidden: true})
  let lost = false

  // It covers nothing: the page below makes room for it, however many lines it takes.
  new ResizeObserver(() => {
    const page = scroller()
    if (page && banner.isConnected) page.style.marginTop = `${banner.offsetHeight}px`
  }).observe(banner)

  const show = ({tone, label, banner: text}) => {
    if (lost) return
    setClass(chip, `status ${tone}`)
    setText(chip, label)
    setText(banner, text)
    banner.hidden = !text
  }

  // The session is gone with its server: once one answers again, the same address brings everything back.
  const lose = () => {
    if (lost) return
    show({tone: "bad", label: "reconnecting…", banner: "The connection to the studio is lost. Reconnecting…"})
    lost = true
    const again = async () => {
      try {
        const answer = await fetch("static/js/bokeh.min.js", {method: "HEAD", cache: "no-store"})
        if (answer.ok) return location.reload()
      } catch {
        // Still away: the next round asks again.
      }
      setTimeout(again, 1000)
    }
    setTimeout(again, 500)
  }
  if (!view.studio_watching) {
    view.studio_watching = true
    keepPlace()
    view.model.document.on_event("connection_lost", () => view.studio_lose())
  }
  view.studio_lose = lose

  listen(model, view, {show: (message) => show(message.view)})
  return el("div", {class: "connection"}, chip, banner)
}
