// A file of finished runs: every part is drawn once by the component that also draws it on the page.
{
  const read = (id) => JSON.parse(document.getElementById(id).textContent)
  const {about, title, shown, colours} = read("shown")
  const page = document.getElementById("page")
  const make = (tag, name, text) => {
    const node = document.createElement(tag)
    if (name) node.className = name
    if (text) node.textContent = text
    return node
  }

  const draw = ({component, view}) => {
    const host = make("div", `part ${component}`)
    const shadow = host.attachShadow({mode: "open"})
    for (const style of DRAWERS[component].styles) shadow.append(make("style", "", style))
    // What leads elsewhere or changes something has no place in a file.
    shadow.append(make("style", "", "nav, .pencil { display: none !important; } .pick { pointer-events: none; }"))
    let listener = null
    // Nobody answers but the file itself: a section can still be folded.
    const model = {
      on: (_, listen) => { listener = listen },
      off: () => {},
      send_msg: ({type, open}) => {
        if (type !== "toggle") return
        view = {...view, open}
        listener({type: "show", view})
      },
    }
    page.append(host)
    shadow.append(DRAWERS[component].render({model, view: {shadow_el: shadow}}))
    listener({type: "show", view})
  }
  const figures = ({title: name, figures: ids, columns}) => {
    const box = make("section", `figures of${columns}`)
    box.setAttribute("aria-label", name)
    for (const id of ids) {
      const place = make("div")
      place.id = id
      box.append(place)
    }
    page.append(box)
  }

  const head = make("header")
  head.append(make("b", "", "SAE Studio"), make("span", "", about))
  page.append(head)
  for (const part of shown) part.component === "figures" ? figures(part) : draw(part)

  const charts = read("charts")
  if (charts) {
    const dark = matchMedia("(prefers-color-scheme: dark)")
    const paint = () => {
      const {text, quiet, line} = colours[dark.matches ? "dark" : "light"]
      for (const doc of Bokeh.documents) for (const one of doc.all_models) {
        if (one.type.endsWith("Axis")) {
          one.setv({major_label_text_color: quiet, axis_label_text_color: quiet, axis_line_color: null, major_tick_line_color: null,
            minor_tick_line_color: null, major_label_text_font_size: "11px", axis_label_text_font_size: "12px"})
        } else if (one.type === "Title") one.setv({text_color: text, text_font_size: "13px", text_font_style: "normal"})
        else if (one.type === "Grid" && one.grid_line_color !== null) one.setv({grid_line_color: line})
      }
    }
    Bokeh.embed.embed_items(charts.docs, charts.items).then(paint)
    dark.addEventListener("change", paint)
  }
}
