/* Explorers: the numbers that a page has recorded, for the reader to choose from, drawn as SVG. Readers without
   JavaScript have the figure and the table above, and the link to the numbers. */

{
  // Elements

  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties)
    element.append(...children)
    return element
  }
  const picture = () => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg")
    svg.setAttribute("role", "img")
    return svg
  }
  const field = (text, control, ...more) => make("label", {}, make("span", {}, text, ...more), control)
  const choice = (values, usual) =>
    make("select", {}, ...values.map((value) => new Option(value, value, false, value === usual)))
  const sample = (shape, text) => {
    const item = make("li", { innerHTML: `<svg viewBox="0 0 36 12" aria-hidden="true">${shape}</svg>` })
    item.append(text)
    return item
  }

  // Numbers as text. The page raises powers; who hears or copies them gets the "^" that is not seen.

  const signed = (text) => String(text).replaceAll("-", "−")
  const plain = (x) => {
    const [digits, tens] = x.toExponential(2).split("e").map(Number)
    return signed(Math.abs(tens) > 4 ? `${digits} × 10^${tens}` : Number(x.toPrecision(3)))
  }
  const power = (x) => `10^${signed((Math.round(100 * x) / 100 + 0).toFixed(2))}` // + 0: no −0.00
  const raised = (text) =>
    text.split(/\^(−?\d+(?:\.\d+)?)/).flatMap((part, i) =>
      i % 2 ? [make("span", { className: "unseen" }, "^"), make("sup", {}, part)] : [part])
  const say = (place, ...parts) => {
    place.replaceChildren(...parts.flatMap((part) => (part instanceof Node ? [part] : raised(part))))
  }

  // Axes: the smallest of 1, 2 and 5 times a power of ten that cuts a span into at most so many pieces.

  const stepFor = (span, pieces) => {
    const unit = 10 ** Math.floor(Math.log10(span / pieces))
    return [1, 2, 5, 10].map((factor) => factor * unit).find((step) => span / step <= pieces + 1e-6)
  }
  const ticks = ({ low, high, step }) => {
    const first = Math.ceil(low / step - 1e-6)
    return Array.from({ length: Math.floor(high / step + 1e-6) - first + 1 }, (_, i) => (first + i) * step)
  }

  // The frame for a chart, as wide as there is room. draw() fills it with what `paint` returns, given where values lie.

  const frameFor = (svg, height) => {
    const width = Math.max(svg.getBoundingClientRect().width, 200)
    const [left, right, top, bottom] = [46, width - 10, 29, height - 40]
    return { width, height, left, right, top, bottom, across: right - left, down: bottom - top }
  }
  const draw = (svg, frame, x, y, label, paint) => {
    const { width, height, left, right, top, bottom, across, down } = frame
    const at = (value) => left + ((value - x.low) / (x.high - x.low)) * across
    const up = (value) => bottom - ((value - y.low) / (y.high - y.low)) * down
    const columns = ticks(x).map((value) =>
      `<g class="column"><path class="grid" d="M${at(value)} ${top}V${bottom}"/>
      <text x="${at(value)}" y="${bottom + 17}" text-anchor="middle">${plain(value)}</text></g>`)
    const rows = ticks(y).map((value) =>
      `<g class="row">
      <path class="grid ${y.power && !value ? "one" : ""}" d="M${left} ${up(value)}H${right}"/>
      <text x="${left - 7}" y="${up(value) + 4}" text-anchor="end">${
        y.power ? `10<tspan dy="-5">${signed(value)}</tspan>` : plain(value)}</text></g>`)
    const [room, shape] = [[left - 4, top - 4], [across + 8, down + 8]] // with half a dot around the frame
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`)
    svg.setAttribute("aria-label", label)
    svg.innerHTML = `${columns.join("")}${rows.join("")}<text x="4" y="14">${y.label}</text>
      <text x="${left + across / 2}" y="${height - 5}" text-anchor="middle">${x.label}</text>
      <path class="edge" d="M${left} ${top}V${bottom}H${right}"/>
      <svg x="${room[0]}" y="${room[1]}" width="${shape[0]}" height="${shape[1]}" viewBox="${room} ${shape}">${paint(at, up)}</svg>`
  }
  const line = (points) => `M${points.map(([x, y]) => `${x} ${y}`).join("L")}`
  const dots = (points) => points.map(([x, y]) => `<circle class="dot" cx="${x}" cy="${y}" r="2.5"/>`).join("")

  // Depth: the mean square of activations and gradients, layer by layer, measured and predicted.

  const decades = (values, label) => {
    const [least, most] = [Math.min(0, ...values), Math.max(0, ...values)]
    const step = Math.max(1, stepFor(most - least || 1, 5))
    const [low, high] = [Math.floor(least / step + 0.02) * step, Math.ceil(most / step - 0.02) * step]
    return { label, step, power: true, ...(high - low < 2 ? { low: -1, high: 1 } : { low, high }) }
  }
  const word = (x) => (x < -2 ? "vanishes" : x > 2 ? "explodes" : "holds")

  const curvesOf = (data, scheme, activation, width, depth) => {
    const found = data.curves.find((c) => c.scheme === scheme && c.activation === activation && c.width === width)
    if (!found) return undefined
    const upTo = (values) => values?.slice(0, depth + 1)
    const sums = upTo(found.backward_predicted)
    const curves = {
      forward: [upTo(found.forward), upTo(found.forward_predicted)],
      backward: [found.backward?.[depth], sums?.map((sum) => sums[depth] - sum)],
    }
    const whole = (values) => values?.length === depth + 1 && values.every(Number.isFinite)
    return Object.values(curves).flat().every(whole) ? curves : undefined
  }

  const depth = (stage, data) => {
    const scheme = choice(data.schemes, "Xavier"), activation = choice(data.activations, "tanh")
    const layers = choice(data.depths, data.depths.at(-1)), width = choice(data.widths, data.widths.at(-1))
    const charts = { forward: picture(), backward: picture() }
    const reading = make("p", { className: "reading", ariaLive: "polite" })
    stage.append(
      make("div", { className: "controls" }, field("Scheme", scheme), field("Activation", activation),
        field("Depth (layers)", layers), field("Width (units)", width)),
      reading,
      make("div", { className: "charts" }, charts.forward, charts.backward),
      make("ul", { className: "legend" },
        sample('<path class="measured" d="M0 6h36"/><circle class="dot" cx="18" cy="6" r="2.5"/>', "measured"),
        sample('<path class="predicted" d="M0 6h36"/>', "predicted"),
        sample('<path class="grid one" d="M0 6h36"/>', "unchanged")))

    const show = () => {
      const last = Number(layers.value)
      const curves = curvesOf(data, scheme.value, activation.value, Number(width.value), last)
      const net = `${scheme.value}, ${activation.value}, ${last} layers of ${width.value}`
      for (const svg of Object.values(charts)) svg.toggleAttribute("hidden", !curves)
      if (!curves) return say(reading, `${net}: nothing is recorded for this choice.`)
      const chart = (way, what, end, where) => {
        const [measured, predicted] = curves[way]
        const values = `${power(measured[end])} measured, ${power(predicted[end])} predicted`
        const x = { low: 0, high: last, step: stepFor(last, 5), label: where }
        const y = decades([...measured, ...predicted], `${way}: mean square of ${what} (log₁₀)`)
        const label = `${net}, ${way}: the mean square of ${what} is ${values}, at layer ${end}`
        draw(charts[way], frameFor(charts[way], 230), x, y, label, (at, up) => {
          const [blue, orange] = [measured, predicted].map((v) => v.map((value, layer) => [at(layer), up(value)]))
          return `<path class="measured" d="${line(blue)}"/>${dots(blue)}<path class="predicted" d="${line(orange)}"/>`
        })
        return [` The ${way} signal `, make("strong", {}, word(measured[end])), `: ${values}.`]
      }
      say(reading, `${net}.`, ...chart("forward", "activations", last, "layer"),
        ...chart("backward", "gradients", 0, "layer (gradients go from right to left)"))
    }
    return show
  }

  // Descent: gradient descent on the mean squared error of y = w x, or of y = w x + b.

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length
  const errors = ({ x, y }, [w, b = 0]) => x.map((value, i) => w * value + b - y[i])
  const loss = (data, point) => mean(errors(data, point).map((error) => error ** 2))
  const path = (data, lr, start, steps) => {
    const points = [start]
    while (points.length <= steps) {
      const point = points.at(-1), off = errors(data, point)
      const gradient = [2 * mean(off.map((error, i) => error * data.x[i])), 2 * mean(off)]
      points.push(point.map((value, i) => value - lr * gradient[i]))
    }
    return points
  }
  // The curvatures of the loss and their directions, the largest first.
  const bends = ({ x, hessian }) => {
    if (!hessian) return [{ curve: 2 * mean(x.map((value) => value ** 2)), along: [1] }]
    const [[a, b], [, d]] = hessian
    const turn = Math.atan2(2 * b, a - d) / 2, spread = Math.hypot((a - d) / 2, b)
    return [1, -1].map((sign) => ({
      curve: (a + d) / 2 + sign * spread,
      along: sign > 0 ? [Math.cos(turn), Math.sin(turn)] : [-Math.sin(turn), Math.cos(turn)],
    }))
  }
  const boundOf = (data) => 2 / bends(data)[0].curve
  // What becomes of it. The distance to the minimum has a part along each direction, which shrinks by its own factor.
  const fate = (data, lr, start) => {
    const away = start.map((value, i) => value - data.minimum[i])
    if (!Math.hypot(...away)) return ["stays", " where it is, at the minimum"]
    const over = lr / boundOf(data) - 1
    if (Math.abs(over) < 1e-6) return ["oscillates for ever", ": it jumps across the minimum and back, step after step"]
    if (over > 0) return ["diverges", `: the distance to the minimum grows by a factor of ${plain(1 + 2 * over)} each step`]
    let parts = bends(data).map(({ along }) => along.reduce((sum, a, i) => sum + a * away[i], 0))
    const factors = bends(data).map(({ curve }) => 1 - lr * curve)
    for (let steps = 0; steps < 100_000; steps++) {
      if (Math.hypot(...parts) <= 0.01 * Math.hypot(...away))
        return ["converges", `: after ${steps} steps it is within 1\u00a0% of its first distance to the minimum`]
      parts = parts.map((part, i) => part * factors[i])
    }
    return ["converges", ", but needs more than 100,000 steps"]
  }
  // Learning rates of two digits from a fortieth of the bound on, with the bound and the recorded ones among them.
  const ratesFor = (data, recorded) => {
    const bound = boundOf(data), tens = Math.floor(Math.log10(bound))
    const digits = Array.from({ length: 90 }, (_, i) => i + 10)
    const round = [-3, -2, -1, 0].flatMap((k) => digits.map((two) => Number(`${two}e${tens + k}`)))
    const near = round.filter((lr) => lr > bound / 40 && lr < bound * 1.6)
    const others = [...near, ...recorded, data.lr].filter((lr) => Math.abs(lr / bound - 1) > 1e-6)
    return [...new Set([...others, bound])].sort((a, b) => a - b)
  }
  // The path in pixels. Where it leaves the frame for good, an arrow says so.
  const trail = (points, { left, right, top, bottom }) => {
    const last = points.findLastIndex(([x, y]) => x > left - 1 && x < right + 1 && y > top - 1 && y < bottom + 1)
    const seen = points.slice(0, last + 1), [x, y] = points[last], next = points[last + 1]
    if (!next) return `<path class="measured" d="${line(seen)}"/>${dots(seen)}`
    const [dx, dy] = [next[0] - x, next[1] - y]
    const part = Math.min(dx ? ((dx > 0 ? right : left) - x) / dx : 1, dy ? ((dy > 0 ? bottom : top) - y) / dy : 1)
    const exit = [x + part * dx, y + part * dy], turn = (Math.atan2(dy, dx) * 180) / Math.PI
    return `<path class="measured" d="${line([...seen, exit])}"/>${dots(seen)}
      <path class="arrow" d="M0 0l-14 -6v12z" transform="translate(${exit}) rotate(${turn})"/>`
  }

  const descent = (stage, data) => {
    const [rate, w, b, steps] = Array.from({ length: 4 }, () => make("input", { type: "range" }))
    const values = [rate, w, b, steps].map(() => make("span", { ariaHidden: "true" })) // the sliders say them as well
    const model = choice(["y = w x", "y = w x + b"])
    const mark = make("datalist", { id: "learning-rate-bound" })
    const boundLabel = make("small", { ariaHidden: "true" }, "2/λ")
    const rateField = field("Learning rate", rate, values[0])
    const startAtB = field("Start: b", b, values[2])
    const chart = picture()
    const reading = make("p", { className: "reading", ariaLive: "polite" })
    const equal = make("span")
    stage.append(
      make("div", { className: "controls" }, field("Model", model), rateField,
        field("Start: w", w, values[1]), startAtB, field("Steps", steps, values[3]), mark),
      reading,
      make("div", { className: "charts" }, chart),
      make("ul", { className: "legend" },
        sample('<path class="measured" d="M0 6h36"/><circle class="dot" cx="18" cy="6" r="2.5"/>', "steps"),
        sample('<circle class="start" cx="18" cy="6" r="5"/>', "start (click to move)"),
        sample('<path class="goal" d="M13 1l10 10m0 -10l-10 10"/>', "minimum"),
        sample('<path class="level" d="M0 11q18 -20 36 0"/>', equal)))
    rateField.append(boundLabel)
    rate.setAttribute("list", mark.id)
    Object.assign(steps, { min: 1, max: 50, value: 30 })

    let name, chosen, rates, reach, pointed
    const starts = () => [w, b].slice(0, chosen.start.length)
    const begin = () => {
      name = model.selectedIndex ? "surface" : "line"
      chosen = data[name]
      rates = ratesFor(chosen, data.paths.filter((p) => p.model === name).map((p) => p.lr))
      Object.assign(rate, { min: 0, max: rates.length - 1, value: rates.indexOf(chosen.lr) })
      mark.replaceChildren(new Option("bound", rates.indexOf(boundOf(chosen))))
      boundLabel.style.setProperty("--at", rates.indexOf(boundOf(chosen)) / (rates.length - 1))
      reach = 1.5 * Math.max(...chosen.start.map((value, i) => Math.abs(value - chosen.minimum[i])))
      const step = stepFor(reach, 50)
      starts().forEach((input, i) => {
        const [start, minimum] = [chosen.start[i], chosen.minimum[i]]
        const min = start - Math.floor((start - minimum + reach) / step) * step // so that the start is on the grid
        Object.assign(input, { min: Number(min.toFixed(9)), max: minimum + reach, step, value: start })
      })
      startAtB.hidden = starts().length < 2
      equal.textContent = name === "line" ? "loss" : "equal loss, ×4 outward"
    }
    const show = () => {
      const lr = rates[rate.value], start = starts().map((input) => Number(input.value))
      const points = path(chosen, lr, start, Number(steps.value)), end = points.at(-1)
      const [verdict, why] = fate(chosen, lr, start)
      rate.setAttribute("aria-valuetext", plain(lr))
      const texts = [`: ${plain(lr)}`, ` = ${signed(w.value)}`, ` = ${signed(b.value)}`, `: ${steps.value}`]
      values.forEach((value, i) => say(value, texts[i]))
      say(reading, `Learning rate ${plain(lr)}, bound 2/λ = ${plain(boundOf(chosen))}. Gradient descent `,
        make("strong", {}, verdict), `${why}. Loss after ${steps.value} steps: ${plain(loss(chosen, end))}.`)

      const frame = frameFor(chart, 340), isLine = name === "line"
      const [center, middle] = chosen.minimum
      const spread = isLine ? reach : (reach * frame.across) / frame.down // one scale for w and b
      const x = { low: center - spread, high: center + spread, label: "w" }
      const y = isLine
        ? { low: loss(chosen, [x.low]) / -25, high: loss(chosen, [x.low]), label: "loss (mean squared error)" }
        : { low: middle - reach, high: middle + reach, label: "b" }
      x.step = stepFor(x.high - x.low, frame.across / 50)
      y.step = stepFor(y.high - y.low, 6)
      pointed = (across, down) => [
        x.low + ((across - frame.left) / frame.across) * (x.high - x.low),
        y.high - ((down - frame.top) / frame.down) * (y.high - y.low),
      ]
      const said = [start, end, chosen.minimum].map((point) => point.map(plain).join(", "))
      const label = `${model.value}: ${steps.value} steps from ${said[0]} to ${said[1]}; the minimum is at ${said[2]}`
      draw(chart, frame, x, y, label, (at, up) => {
        const place = (point) => [at(point[0]), up(isLine ? loss(chosen, point) : point[1])]
        const [sx, sy] = place(start)
        const level = isLine
          ? `<path class="level" d="${line(Array.from({ length: 101 }, (_, i) => place([x.low + (i / 50) * spread])))}"/>`
          : ellipses(chosen, reach, frame.down / 2, place(chosen.minimum))
        return `${level}<path class="goal" d="M-6 -6l12 12m0 -12l-12 12" transform="translate(${place(chosen.minimum)})"/>
          ${trail(points.map(place), frame)}<circle class="start" cx="${sx}" cy="${sy}" r="6"/>`
      })
    }
    model.addEventListener("input", begin)
    chart.addEventListener("click", ({ clientX, clientY }) => {
      const box = chart.getBoundingClientRect(), point = pointed(clientX - box.left, clientY - box.top)
      starts().forEach((input, i) => (input.value = point[i]))
      show()
    })
    begin()
    return show
  }
  const ellipses = (data, reach, pixels, center) => {
    const [steep, flat] = bends(data)
    const [a, b] = steep.along.map((value) => value * pixels)
    const [c, d] = flat.along.map((value) => value * pixels * Math.sqrt(steep.curve / flat.curve))
    return [0, 1, 2, 3, 4, 5, 6].map((k) => {
      const axes = [a, -b, c, -d].map((value) => value / 2 ** k)
      return `<circle class="level" r="1" transform="matrix(${axes} ${center})"/>`
    }).join("")
  }

  const kinds = { depth, descent }
  const explore = (box) => {
    const stage = make("div", { className: "stage" })
    box.prepend(stage)
    try {
      const show = kinds[box.dataset.explorer](stage, JSON.parse(box.querySelector("script").textContent))
      show()
      stage.addEventListener("input", show)
      new ResizeObserver(show).observe(stage)
    } catch (error) {
      stage.replaceChildren(make("p", {}, `These numbers cannot be drawn (${error.message}).`))
    }
  }
  document.querySelectorAll(".explorer[data-explorer]").forEach(explore)
  window.explorers = { path, loss, explore }
}
