"use strict";
// The controls, figures and tables of the page. All data is in the element #data.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rules = new Map(data.rules.map((rule) => [rule.spec, rule]));
  const shown = { rule: new Set(rules.keys()), seed: new Set(data.seeds) };
  const root = document.documentElement;
  const symbols = ["circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagon"];

  // ---- theme -------------------------------------------------------------------------------------------
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const themeButton = document.getElementById("theme");
  const remembered = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const remember = (theme) => { try { localStorage.setItem("theme", theme); } catch { /* a page on disk may not */ } };
  const isDark = () => root.dataset.theme === "dark";

  function setTheme(theme) {
    root.dataset.theme = theme;
    themeButton.textContent = theme === "dark" ? "Light" : "Dark";
    themeButton.setAttribute("aria-label", `Change to ${theme === "dark" ? "light" : "dark"} colours`);
    redraw();
  }

  // ---- figures -----------------------------------------------------------------------------------------
  // Plotly reads a little HTML in texts; what comes from a study must stay text.
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const color = (rule) => rules.get(rule)[isDark() ? "dark" : "light"];
  const label = (rule) => plain(rules.get(rule).label);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const deviation = (values) => {
    const middle = mean(values);
    return Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1));
  };
  const known = (value) => value !== null && value !== undefined;

  function dotTraces(panel, rule, own) {
    const traces = [];
    const points = own.filter((series) => known(series.y[0]) && (!panel.log || series.y[0] > 0));
    if (points.length) {
      traces.push({
        type: "scatter", mode: "markers", name: label(rule), x: points.map((s) => s.y[0]), y: points.map(() => label(rule)),
        text: points.map((s) => `seed ${s.seed}${s.diverged ? ", diverged" : ""}`),
        marker: { color: color(rule), size: 7, opacity: 0.55, symbol: points.map((s) => (s.diverged ? "x" : "circle")) },
        hovertemplate: `${label(rule)}, %{text}: %{x:.4~g}<extra></extra>`,
      });
    }
    let [middle, low, high, what] = [null, null, null, ""];
    const interval = panel.intervals.find((one) => one.rule === rule);
    const values = points.map((s) => s.y[0]);
    if (interval) {
      [middle, low, high, what] = [interval.estimate, interval.low, interval.high, "estimate"];
    } else if (!panel.intervals.length && values.length) {
      const spread = values.length > 1 ? deviation(values) : null;
      middle = mean(values);
      [low, high] = spread === null ? [null, null] : [middle - spread, middle + spread];
      what = `mean of ${values.length} seed${values.length > 1 ? "s" : ""}`;
    }
    if (known(middle)) {
      const bounded = known(low) && known(high);
      traces.push({
        type: "scatter", mode: "markers", name: label(rule), x: [middle], y: [label(rule)],
        marker: { color: color(rule), size: 10, symbol: "diamond", line: { width: 1, color: isDark() ? "#14171c" : "#ffffff" } },
        error_x: bounded
          ? { type: "data", symmetric: false, array: [high - middle], arrayminus: [middle - low], color: color(rule), thickness: 2, width: 4 }
          : undefined,
        hovertemplate: `${label(rule)}, ${what}: %{x:.4~g}${bounded ? ` (${format(low)} to ${format(high)})` : ""}<extra></extra>`,
      });
    }
    return traces;
  }

  function lineTraces(panel, rule, own) {
    const at = new Map();
    const traces = own.length < 2 ? [] : own.map((series) => ({
      type: "scatter", mode: "lines", name: label(rule), x: series.x, y: series.y, line: { color: color(rule), width: 1 },
      opacity: 0.4, hovertemplate: `${label(rule)}, seed ${series.seed}<br>%{x:.4~g}: %{y:.4~g}<extra></extra>`,
    }));
    for (const series of own) {
      series.x.forEach((x, place) => {
        if (known(series.y[place])) at.set(x, [...(at.get(x) || []), series.y[place]]);
      });
    }
    const places = [...at.keys()].sort((a, b) => a - b);
    if (places.length) {
      const reference = rule === "bp";
      traces.push({
        type: "scatter", mode: places.length > 25 ? "lines" : "lines+markers", name: label(rule), x: places, y: places.map((x) => mean(at.get(x))),
        text: places.map((x) => `mean of ${at.get(x).length}`), line: { color: color(rule), width: reference ? 1.5 : 2.2 },
        marker: { size: reference ? 4 : 6, symbol: symbols[data.rules.findIndex((one) => one.spec === rule) % symbols.length] },
        hovertemplate: `${label(rule)}, %{text}<br>%{x:.4~g}: %{y:.4~g}<extra></extra>`,
      });
    }
    return traces;
  }

  // Ticks at 1, 2 and 5 in each decade, or at its beginning only where there are many; written in full.
  function logarithmic(values) {
    if (!values.length) return { type: "log" };
    const [low, high] = [Math.min(...values) / 1.3, Math.max(...values) * 1.3];
    const ticks = (digits) => {
      const found = [];
      for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade += 1) {
        found.push(...digits.map((digit) => digit * 10 ** decade).filter((tick) => tick >= low && tick <= high));
      }
      return found;
    };
    const fine = ticks([1, 2, 5]);
    // Within less than a decade, plotly's own ticks are evenly spaced and written in full.
    if (fine.length < 3) return { type: "log", nticks: 5 };
    const tickvals = fine.length <= 7 ? fine : ticks([1]);
    return { type: "log", tickvals, ticktext: tickvals.map(format) };
  }

  // Few whole numbers, such as depths, are the ticks themselves.
  function linear(values) {
    const places = [...new Set(values)].sort((a, b) => a - b);
    const few = places.length > 1 && places.length <= 11 && places.every(Number.isInteger);
    return few ? { type: "linear", tickvals: places } : { type: "linear" };
  }

  const format = (value) => Number(value.toPrecision(4)).toString();

  function draw(element) {
    const plot = data.plots[element.dataset.plot];
    const panel = plot.panels[Number(element.dataset.panel)];
    const dots = panel.kind === "dots";
    const measured = new Set(panel.series.map((series) => series.rule));
    const chosen = plot.rules.filter((rule) => shown.rule.has(rule) && measured.has(rule));
    const traces = chosen.flatMap((rule) => {
      const own = panel.series.filter((series) => series.rule === rule && shown.seed.has(series.seed));
      return dots ? dotTraces(panel, rule, own) : lineTraces(panel, rule, own);
    });
    const values = traces.flatMap((trace) => (dots ? trace.x : trace.y)).filter(known);
    const places = traces.flatMap((trace) => (dots ? [] : trace.x));
    const styles = getComputedStyle(root);
    const [text, soft, line, raised] = ["--text", "--soft", "--line", "--raised"].map((name) => styles.getPropertyValue(name).trim());
    const axis = { gridcolor: line, linecolor: line, zeroline: false, automargin: true, tickfont: { color: soft, size: 11 }, fixedrange: false };
    const valueAxis = { ...axis, title: { text: plain(panel.values), font: { size: 12 }, standoff: 8 }, ...(panel.log ? logarithmic(values) : { type: "linear" }) };
    const layout = {
      margin: { l: 10, r: 14, t: 8, b: 10 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: text, size: 12, family: getComputedStyle(document.body).fontFamily }, showlegend: false, hovermode: "closest",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: text },
      hoverlabel: { bgcolor: raised, bordercolor: line, font: { color: text }, align: "left" },
      // On a touch screen a finger that crosses a figure scrolls the page.
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      xaxis: dots ? valueAxis : { ...axis, title: { text: plain(panel.along), font: { size: 12 }, standoff: 8 }, ...(panel.log_along ? logarithmic(places) : linear(places)) },
      yaxis: dots
        ? { ...axis, type: "category", categoryorder: "array", categoryarray: chosen.map(label).reverse(), range: [-0.6, chosen.length - 0.4], showgrid: false, fixedrange: true, tickfont: { color: text, size: 11 } }
        : valueAxis,
      shapes: [], annotations: [],
    };
    if (known(panel.mark)) {
      const dash = { color: soft, width: 1, dash: "dash" };
      layout.shapes.push(dots
        ? { type: "line", x0: panel.mark, x1: panel.mark, y0: 0, y1: 1, yref: "paper", line: dash, layer: "below" }
        : { type: "line", y0: panel.mark, y1: panel.mark, x0: 0, x1: 1, xref: "paper", line: dash, layer: "below" });
      const at = panel.log ? Math.log10(panel.mark) : panel.mark;
      layout.annotations.push({
        text: plain(panel.mark_label), showarrow: false, font: { size: 10.5, color: soft },
        ...(dots ? { x: at, y: 1, yref: "paper", yanchor: "bottom" } : { x: 1, xref: "paper", xanchor: "right", y: at, yanchor: "bottom" }),
      });
      if (dots) layout.margin.t = 22;
    }
    if (!traces.length) {
      layout.annotations.push({ text: "nothing chosen was measured", showarrow: false, font: { color: soft }, x: 0.5, y: 0.5, xref: "paper", yref: "paper" });
    }
    // Without a pointer to hover, the buttons would always lie on the upper right of what they are for.
    const displayModeBar = matchMedia("(hover: none)").matches ? false : "hover";
    Plotly.react(element, traces, layout, { responsive: true, displaylogo: false, displayModeBar, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
  }

  const axes = [...document.querySelectorAll(".axes")];
  const drawn = new Set();
  // A page has many figures: each is drawn when it comes near the window.
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      drawn.add(target);
      draw(target);
    }
  }, { rootMargin: "400px" });

  function redraw() { drawn.forEach(draw); }

  // ---- controls ----------------------------------------------------------------------------------------
  function choose(event) {
    const { name, value, checked } = event.target;
    shown[name][checked ? "add" : "delete"](name === "seed" ? Number(value) : value);
    document.querySelectorAll(".legend li").forEach((item) => item.classList.toggle("off", !shown.rule.has(item.dataset.rule)));
    redraw();
  }

  // ---- tables ------------------------------------------------------------------------------------------
  function sortBy(button) {
    const head = button.closest("th");
    const table = head.closest("table");
    const body = table.tBodies[0];
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    const key = (row) => row.cells[head.cellIndex].dataset.sort ?? row.cells[head.cellIndex].textContent.trim();
    const isNumber = (text) => text !== "" && Number.isFinite(Number(text));
    const compare = (a, b) => (isNumber(a) && isNumber(b) ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
    const rows = [...body.rows].sort((a, b) => compare(key(a), key(b)) * (ascending ? 1 : -1));
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    body.append(...rows);
  }

  // ---- print -------------------------------------------------------------------------------------------
  let before = null;
  addEventListener("beforeprint", () => {
    before = { theme: root.dataset.theme, closed: [...document.querySelectorAll("details:not([open])")] };
    before.closed.filter((one) => !one.closest(".numbers, .found")).forEach((one) => { one.open = true; });
    document.body.style.width = "680px";
    axes.forEach((one) => drawn.add(one));
    setTheme("light");
  });
  addEventListener("afterprint", () => {
    before.closed.forEach((one) => { one.open = false; });
    document.body.style.width = "";
    setTheme(before.theme);
  });

  const controls = document.getElementById("controls");
  controls.hidden = false;
  if (innerWidth < 640) controls.firstElementChild.open = false;
  controls.addEventListener("change", choose);
  themeButton.hidden = false;
  themeButton.addEventListener("click", () => { setTheme(isDark() ? "light" : "dark"); remember(root.dataset.theme); });
  prefersDark.addEventListener("change", (event) => { if (!remembered()) setTheme(event.matches ? "dark" : "light"); });
  document.querySelectorAll(".sort").forEach((button) => button.addEventListener("click", () => sortBy(button)));
  setTheme(remembered() ?? (prefersDark.matches ? "dark" : "light"));
  axes.forEach((one) => watcher.observe(one));
})();
