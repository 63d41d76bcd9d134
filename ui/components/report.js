// A file of finished runs: every part is drawn once by the component that also draws it on the page.
{
  const read = (id) => JSON.parse(document.getElementById(id).textContent)
  const {about, title, shown, colours, faded} = read("shown")
  const page = document.getElementById("page")
  const make = (tag, name, text) => {
    const node = document.createElement(tag)
    if (name) node.className = name
    if (text) node.textContent = text
    return node
  }

  // What is brought out in one part is in all.
  let selected = []
  const marked = []
  const pick = (keys) => {
    if (keys.join() === selected.join()) return
    selected = keys
    for (const mark of marked) mark()
    for (const doc of documents()) for (const {type, data_source: source, glyph} of doc.all_models) {
      const key = type === "GlyphRenderer" ? source.name?.match(/-((?:run|sae)\d+)$/)?.[1] : undefined
      if (key === undefined) continue
      const back = keys.length > 0 && !keys.includes(key)
      glyph.setv({line_alpha: {value: back ? faded : 1}, line_width: {value: keys.length && !back ? 2.5 : 1.5}})
    }
    const points = frontier()
    const indices = points ? [...points.data.key].flatMap((key, index) => keys.includes(key) ? [index] : []) : []
    if (points && indices.join() !== points.selected.indices.join()) points.selected.indices = indices
  }
  // A file without charts has no Bokeh in it.
  const documents = () => globalThis.Bokeh?.documents ?? []
  const frontier = () => documents().map((doc) => doc.get_model_by_name("frontier")).find(Boolean)

  const draw = ({component, view}) => {
    const host = make("div", `part ${component}`)
    const shadow = host.attachShadow({mode: "open"})
    for (const style of DRAWERS[component].styles) shadow.append(make("style", "", style))
    // What leads elsewhere or changes something has no place in a file.
    shadow.append(make("style", "", "nav, .pencil, .noted.none, .noted > button { display: none !important; }"))
    let listener = null
    // Nobody answers but the file itself: a section can still be folded, and a run be brought out.
    const model = {
      on: (_, listen) => { listener = listen },
      off: () => {},
      send_msg: ({type, open, key}) => {
        if (type === "toggle") show({open})
        if (type === "select") pick(selected.length === 1 && selected[0] === key ? [] : [key])
      },
    }
    const show = (change) => {
      view = {...view, ...change}
      listener({type: "show", view})
    }
    for (const name of {table: ["heads"], legend: ["lines"]}[component] ?? []) {
      marked.push(() => show({[name]: view[name].map((one) => one.key === undefined ? one
        : {...one, selected: selected.includes(one.key), faded: selected.length > 0 && !selected.includes(one.key)})}))
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
    Bokeh.embed.embed_items(charts.docs, charts.items).then(() => {
      paint()
      const points = frontier()
      points?.selected.properties.indices.change.connect(() =>
        pick([...new Set(points.selected.indices.map((index) => points.data.key[index]))]))
    })
    dark.addEventListener("change", paint)
  }
}
