// Draws each plot from the table under it, and asks for nothing while nobody looks.
"use strict";
(() => {
  const drawn = new Map();
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const number = cell => (cell.textContent.trim() === "" ? null : Number(cell.textContent));

  function columns(table) {
    const rows = [...table.tBodies[0].rows].map(row => [...row.cells].map(number));
    return rows[0].map((_, column) => rows.map(row => row[column]));
  }

  function draw(canvas) {
    const table = canvas.parentElement.querySelector("table.data");
    if (!table || !table.tBodies[0].rows.length) return;
    const data = columns(table), heads = [...table.tHead.rows[0].cells].map(cell => cell.textContent);
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") }, font: "12px system-ui, sans-serif" };
    const whole = [1, 2, 5].flatMap(step => [0, 1, 2, 3, 4, 5].map(power => step * 10 ** power)).sort((a, b) => a - b); // rounds have no halves
    const strokes = ["--mark-blue", "--mark-bad", "--mark-well", "--mark-warn"], dashes = [[], [7, 4], [2, 3], [9, 3, 2, 3]];
    const series = heads.map((label, index) => index === 0 ? { label } : {
      label, stroke: colour(strokes[(index - 1) % strokes.length]), dash: dashes[(index - 1) % dashes.length], width: 2, spanGaps: true,
      points: { show: data[0].length <= 40, size: 5 },
    });
    if (canvas.dataset.least !== undefined) {
      data.push(data[0].map(() => Number(canvas.dataset.least)));
      series.push({ label: "least", stroke: colour("--mark-bad"), dash: [7, 4], width: 1.5, points: { show: false } });
    }
    drawn.get(canvas)?.destroy();
    drawn.set(canvas, new uPlot({
      width: Math.max(220, canvas.clientWidth), height: 210, series, axes: [{ ...axis, incrs: whole }, { ...axis, size: 56 }],
      scales: { x: { time: false } }, legend: { show: false }, cursor: { drag: { x: false, y: false } },
    }, data, canvas));
  }

  function drawAll() {
    for (const canvas of drawn.keys()) if (!canvas.isConnected) { drawn.get(canvas).destroy(); drawn.delete(canvas); }
    document.querySelectorAll("[data-plot]").forEach(draw);
  }

  let waiting;
  const later = () => { clearTimeout(waiting); waiting = setTimeout(drawAll, 150); };
  document.addEventListener("DOMContentLoaded", drawAll);
  addEventListener("resize", later);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  document.addEventListener("htmx:beforeRequest", event => { if (document.hidden) event.preventDefault(); });
})();
