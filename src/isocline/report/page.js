(function () {
  "use strict";
  var root = document.documentElement;
  root.classList.add("js");
  function all(selector, within) { return Array.prototype.slice.call((within || document).querySelectorAll(selector)); }

  /* theme: follow the system until the reader chooses */
  var button = document.querySelector(".theme");
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  function isDark() { return root.dataset.theme ? root.dataset.theme === "dark" : dark.matches; }
  function label() {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", "Switch to the " + (isDark() ? "light" : "dark") + " theme");
  }
  try { var kept = localStorage.getItem("isocline-theme"); if (kept) { root.dataset.theme = kept; } } catch (e) { /* private mode */ }
  button.addEventListener("click", function () {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("isocline-theme", root.dataset.theme); } catch (e) { /* private mode */ }
    label();
  });
  dark.addEventListener("change", label);
  label();

  /* NFE picker: shows what belongs to the chosen number of evaluations */
  all("[data-pick]").forEach(function (group) {
    var name = group.dataset.pick;
    function show() {
      var value = group.querySelector("input:checked").value;
      all("[data-for='" + name + "']").forEach(function (item) { item.classList.toggle("off-display", item.dataset.nfe !== value); });
    }
    group.addEventListener("change", show);
    show();
  });

  /* sliders along t: every model's states share one position between noise and data */
  all("[data-slide]").forEach(function (box) {
    var input = box.querySelector("input"), out = box.querySelector("output"), play = box.querySelector(".play");
    var targets = all("[data-slides='" + box.dataset.slide + "']"), timer = null;
    function show() {
      var share = Number(input.value) / Number(input.max);
      targets.forEach(function (target, index) {
        var times = target.dataset.times.split(" "), k = Math.round(share * (times.length - 1));
        if (target.classList.contains("stack")) {
          Array.prototype.forEach.call(target.children, function (child, i) {
            child.classList.toggle("off", i !== k);
            child.setAttribute("aria-hidden", String(i !== k));
          });
        } else { target.style.setProperty("--k", k); }
        if (index === 0) { out.textContent = "t = " + times[k]; input.setAttribute("aria-valuetext", "t = " + times[k]); }
      });
    }
    function stop() { clearInterval(timer); timer = null; play.textContent = "Play"; }
    input.addEventListener("input", function () { if (timer) { stop(); } show(); });
    play.addEventListener("click", function () {
      if (timer) { stop(); return; }
      if (input.value === input.max) { input.value = 0; }
      play.textContent = "Pause";
      show();
      timer = setInterval(function () {
        input.value = Number(input.value) + 1;
        show();
        if (input.value === input.max) { stop(); }
      }, 260);
    });
    show();
  });

  /* lineage: point at a stage to see what feeds it and what it feeds */
  var graph = document.querySelector(".lineage");
  if (graph) {
    var edges = all(".edge", graph), nodes = all(".node", graph);
    nodes.forEach(function (node) {
      node.addEventListener("pointerenter", function () {
        var lit = {};
        function follow(name, from, to) {
          lit[name] = true;
          edges.forEach(function (edge) { if (edge.dataset[from] === name) { edge.classList.add("on"); follow(edge.dataset[to], from, to); } });
        }
        follow(node.dataset.stage, "from", "to");
        follow(node.dataset.stage, "to", "from");
        nodes.forEach(function (other) { other.classList.toggle("on", Boolean(lit[other.dataset.stage])); });
        graph.classList.add("lit");
      });
      node.addEventListener("pointerleave", function () {
        graph.classList.remove("lit");
        edges.concat(nodes).forEach(function (item) { item.classList.remove("on"); });
      });
    });
  }

  /* runs.js, when it lies beside the page, brings links to the tracked runs and wall-clock figures */
  var runs = window.ISOCLINE_RUNS;
  if (!runs || typeof runs !== "object") { return; }
  var base = String(runs.ui_url || "http://127.0.0.1:5000").replace(/\/+$/, "");
  if (!/^https?:\/\//.test(base)) { base = "http://127.0.0.1:5000"; }
  function address(id) { return base + "/#/experiments/" + encodeURIComponent(runs.experiment_id) + "/runs/" + encodeURIComponent(id); }
  function link(id, text) {
    var a = document.createElement("a");
    a.href = address(id);
    a.textContent = text;
    return a;
  }
  function round(value) { return value >= 100 ? String(Math.round(value)) : Number(value).toPrecision(3); }
  function duration(seconds) {
    if (seconds < 60) { return round(seconds) + " s"; }
    return Math.floor(seconds / 60) + " min " + Math.round(seconds % 60) + " s";
  }
  var body = document.querySelector("#run-rows"), stages = runs.stages || {};
  Object.keys(stages).forEach(function (name) {
    var entry = stages[name] || {}, row = null;
    all("tr[data-stage]", body).forEach(function (tr) { if (tr.dataset.stage === name) { row = tr; } });
    if (!row) { return; }
    var cells = row.querySelectorAll("td");
    cells[0].textContent = entry.status || "–";
    cells[1].textContent = typeof entry.seconds === "number" ? duration(entry.seconds) : "–";
    cells[2].textContent = Object.keys(entry.timings || {}).map(function (key) {
      var value = entry.timings[key];
      return key.replace(/_per_second/, "/s").replace(/_nfe_/, " @ ").replace(/_/g, " ") + ": " + (typeof value === "number" ? round(value) : value);
    }).join("\n") || "–";
    cells[3].textContent = "";
    if (entry.run_id) { cells[3].appendChild(link(entry.run_id, "open")); } else { cells[3].textContent = "–"; }
  });
  all("[data-run]").forEach(function (cell) {
    var entry = stages[cell.dataset.run] || {}, name = cell.dataset.timing;
    var value = name ? (entry.timings || {})[name] : entry.seconds;
    if (typeof value === "number") { cell.textContent = name ? round(value) : duration(value); }
  });
  document.querySelector("#run-panel").hidden = false;
  var note = document.querySelector("#run-note");
  note.textContent = "Runs are stored at " + runs.tracking_uri + (runs.ui_url ? ". " : "; start the interface with “make ui”, then the links below work. ");
  if (runs.parent) { note.appendChild(link(runs.parent, "The parent run of this pipeline")); }
})();
