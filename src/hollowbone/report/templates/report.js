"use strict";
// Draws the figures, in the colours of the scheme that is on and to the width that there is; again whenever either changes.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const NARROW = 560;

  // "var(--name)" is the only way in which a figure names a colour or a font.
  const resolved = (value, css) => {
    if (typeof value === "string") {
      return value.startsWith("var(--") ? css.getPropertyValue(value.slice(4, -1)).trim() : value;
    }
    if (Array.isArray(value)) return value.map((inner) => resolved(inner, css));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolved(inner, css)]));
    }
    return value;
  };

  const draw = (place, figure) => {
    const width = place.clientWidth;
    const narrow = width < NARROW;
    const { data, layout } = resolved(figure, getComputedStyle(document.documentElement));
    layout.width = width;
    if (figure.square) {
      layout.width = Math.min(width, 720);
      layout.height = Math.min(layout.height, Math.max(320, width));
    }
    if (narrow) {
      layout.margin = { ...layout.margin, l: 44, r: 8 };
      layout.dragmode = false; // a finger scrolls the page
      layout.font.size = 11;
      for (const axis of ["xaxis", "yaxis", "yaxis2"]) if (layout[axis] && !layout[axis].tickvals) layout[axis].nticks = 5;
    }
    return Plotly.react(place, data, layout, { displayModeBar: false, showTips: false });
  };

  const places = Object.entries(figures).map(([name, figure]) => [document.getElementById(`figure-${name}`), figure]);
  const drawAll = () => Promise.all(places.map(([place, figure]) => draw(place, figure)));

  let width = 0;
  let pending = 0;
  new ResizeObserver((entries) => {
    const now = Math.round(entries[0].contentRect.width);
    if (now === width) return;
    width = now;
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(() => drawAll().then(() => document.documentElement.setAttribute("data-drawn", String(now))));
  }).observe(document.querySelector("main"));
  dark.addEventListener("change", drawAll);
})();
