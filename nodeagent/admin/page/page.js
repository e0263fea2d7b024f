// SPDX-License-Identifier: Apache-2.0
// Draws what /events tells. Everything that comes from the mesh is put in as text, never as markup.
"use strict";

const KEPT = 2000; // connections that ended, of which edges are counted
const ROWS = 200; // of them that are shown
const NODES = 40; // of the graph; edges of the others are left out, and that is said
const AGAIN_MS = 3000;
const ORDER = ["mtls", "local", "plain", "denied", "failed"];

const at = (id) => document.getElementById(id);
const seen = { picture: null, flows: [], skipped: 0, frozen: null, source: null };

function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function draw(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// ---- what a connection is -----------------------------------------------------------------------------------------

function kind(one) {
  if (one.verdict === "denied" || one.verdict === "failed") return one.verdict;
  return carriage(one);
}

function carriage(one) {
  if (one.protocol === "HBONE") return "mtls";
  return one.tls_peer ? "local" : "plain";
}

function called(party) {
  if (party.workload) return `${party.namespace}/${party.workload}`;
  return party.address.replace(/:\d+$/, "");
}

const port = (party) => party.address.replace(/^.*:/, "");
const clock = (time) => (time ? time.slice(11, 19) : "");
const identity = (uri) => uri.replace("spiffe://", "");

// ---- tables -------------------------------------------------------------------------------------------------------

function fill(table, titles, rows) {
  const head = make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title)));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell) => (cell instanceof Node ? cell : make("td", {}, cell)))));
  table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
}

const cell = (text, names) => make("td", { class: names }, text);

function showPods(pods) {
  fill(
    at("pods"),
    ["pod", "captured", "addresses", "identity", "connections"],
    pods.map((pod) => [
      `${pod.namespace}/${pod.pod}`,
      cell(pod.reason ? `${pod.captured}: ${pod.reason}` : pod.captured, pod.captured),
      pod.ips.join(" "),
      identity(pod.identity),
      String(pod.hits),
    ]),
  );
}

function showPolicies(told) {
  const rows = told.policies.map((policy) => {
    const key = `${policy.namespace}/${policy.name}`;
    const notes = [];
    if (policy.dry_run) notes.push("dry run");
    if (!policy.attached) notes.push("about no workload");
    if (!policy.rules) notes.push("no rules");
    return [key, policy.action, String(policy.attached), String(policy.hits), cell(policy.last_hit ? clock(policy.last_hit) : "", "short"), notes.join(", ")];
  });
  for (const missing of told.missing) rows.push([missing.policy, "", String(missing.attached), "", "", cell("has not arrived", "denied")]);
  fill(at("policies"), ["policy", "does", "workloads", "hits", "last", "note"], rows);
}

function showCertificates(certificates) {
  fill(
    at("certificates"),
    ["identity", "state", "left", "ends", "note"],
    certificates.map((one) => {
      const whole = (Date.parse(one.not_after) - Date.parse(one.not_before)) / 1000 || 1;
      const share = Math.min(1, one.expires_in_seconds / whole);
      const bar = make("meter", { min: 0, max: 1, low: 0.2, value: share, title: `${Math.round(share * 100)} % of its life` });
      return [identity(one.name), one.state, make("td", {}, bar), cell(one.not_after, "short"), one.last_error];
    }),
  );
}

// ---- what ended ---------------------------------------------------------------------------------------------------

function fits(flow, words, verdict, as) {
  if (verdict && flow.verdict !== verdict) return false;
  if (as && carriage(flow) !== as) return false;
  if (!words) return true;
  const text = [called(flow.source), called(flow.destination), flow.source.address, flow.destination.address, flow.service,
    flow.reason, flow.policy, flow.error].join(" ").toLowerCase();
  return words.split(/\s+/).every((word) => text.includes(word));
}

function showFlows() {
  const flows = seen.frozen || seen.flows;
  const words = at("find").value.trim().toLowerCase();
  const found = flows.filter((flow) => fits(flow, words, at("verdict").value, at("kind").value));
  fill(
    at("flows"),
    ["ended", "from", "to", "Service", "as", "verdict", "reason", "policy", "bytes", "seconds"],
    found.slice(-ROWS).reverse().map((flow) => [
      cell(clock(flow.ended), "short"),
      make("td", { title: flow.source.address }, called(flow.source)),
      make("td", { title: flow.destination.address }, `${called(flow.destination)}:${port(flow.destination)}`),
      flow.service.split("/").pop(),
      { mtls: "mutual TLS", local: `on one node (${flow.path})`, plain: "plain text" }[carriage(flow)],
      cell(flow.verdict, flow.verdict),
      make("td", { title: flow.check }, flow.error ? `${flow.reason}: ${flow.error}` : flow.reason),
      flow.policy,
      `${flow.sent_bytes} / ${flow.received_bytes}`,
      String(flow.seconds),
    ]),
  );
  const skipped = seen.skipped ? `; ${seen.skipped} more were not looked at` : "";
  at("flow-count").textContent = `${found.length} of ${flows.length}${skipped}`;
  const waiting = seen.frozen ? seen.flows.length - seen.frozen.length : 0;
  at("pause").textContent = seen.frozen ? `resume (${Math.max(0, waiting)} new)` : "pause";
  at("pause").setAttribute("aria-pressed", String(Boolean(seen.frozen)));
}

// ---- the graph ----------------------------------------------------------------------------------------------------

function edges() {
  const found = new Map();
  for (const one of [...seen.flows, ...(seen.picture.connections || [])]) {
    const [from, to, as] = [called(one.source), called(one.destination), kind(one)];
    const key = `${from} ${to} ${as}`;
    const edge = found.get(key) || { from, to, as, count: 0, port: port(one.destination) };
    edge.count += 1;
    found.set(key, edge);
  }
  return [...found.values()].sort((one, other) => other.count - one.count);
}

function showGraph() {
  const all = edges();
  const names = [...new Set(all.flatMap((edge) => [edge.from, edge.to]))].slice(0, NODES).sort();
  const places = new Map(names.map((each, number) => {
    const angle = (2 * Math.PI * number) / names.length - Math.PI / 2;
    return [each, { x: 450 + 330 * Math.cos(angle), y: 210 + 160 * Math.sin(angle) }];
  }));
  const drawn = all.filter((edge) => places.has(edge.from) && places.has(edge.to) && edge.from !== edge.to);
  const here = new Set(seen.picture.pods.map((pod) => `${pod.namespace}/${pod.pod}`));
  const parts = drawn.flatMap((edge) => arrow(edge, places.get(edge.from), places.get(edge.to)));
  for (const [each, place] of places) {
    parts.push(draw("circle", { cx: place.x, cy: place.y, r: 9, class: here.has(each) ? "here" : "there" }));
    parts.push(draw("text", { x: place.x, y: place.y + (place.y < 210 ? -16 : 26) }, each));
  }
  at("graph").replaceChildren(...parts);
  const notes = ["thick circles: pods of this node; a click on an edge asks what would become of another one"];
  if (seen.picture.connections === null) notes.push("too many are open to look at each: only what has ended is drawn");
  if (drawn.length < all.filter((edge) => edge.from !== edge.to).length) notes.push(`only ${NODES} names are drawn`);
  at("graph-note").textContent = notes.join("; ");
}

function arrow(edge, from, to) {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length = Math.hypot(dx, dy) || 1;
  const [ux, uy] = [dx / length, dy / length];
  // Each kind has a bend of its own, to the right of its direction, so that none hides another or the way back.
  const bend = 14 + 16 * ORDER.indexOf(edge.as);
  const middle = { x: (from.x + to.x) / 2 - uy * bend, y: (from.y + to.y) / 2 + ux * bend };
  const back = Math.hypot(to.x - middle.x, to.y - middle.y) || 1;
  const [vx, vy] = [(to.x - middle.x) / back, (to.y - middle.y) / back];
  const tip = { x: to.x - vx * 11, y: to.y - vy * 11 };
  const base = { x: tip.x - vx * 10, y: tip.y - vy * 10 };
  const path = draw("path", {
    class: edge.as,
    d: `M${from.x} ${from.y}Q${middle.x} ${middle.y} ${base.x} ${base.y}`,
    "stroke-width": Math.min(6, 1.5 + Math.log10(edge.count)),
    "data-edge": `${edge.from} ${edge.to}`,
  });
  path.append(draw("title", {}, `${edge.from} to ${edge.to}: ${edge.count}`));
  path.addEventListener("click", () => wonder(edge));
  const corners = [tip, { x: base.x - vy * 5, y: base.y + vx * 5 }, { x: base.x + vy * 5, y: base.y - vx * 5 }];
  const head = draw("polygon", { class: edge.as, points: corners.map((corner) => `${corner.x},${corner.y}`).join(" ") });
  const count = draw("text", { class: `count ${edge.as}`, x: (middle.x * 2 + from.x + to.x) / 4, y: (middle.y * 2 + from.y + to.y) / 4 }, String(edge.count));
  return [path, head, count];
}

// ---- what if ------------------------------------------------------------------------------------------------------

function wonder(edge) {
  at("ask-source").value = edge.from;
  at("ask-destination").value = edge.to;
  at("ask-port").value = edge.port;
  explain();
}

async function explain() {
  const query = new URLSearchParams({
    node: at("node").value,
    source: at("ask-source").value.trim(),
    destination: at("ask-destination").value.trim(),
    port: at("ask-port").value,
  });
  if (at("ask-plaintext").checked) query.set("plaintext", "true");
  let body;
  try {
    body = await (await fetch(`explain?${query}`)).json();
  } catch (error) {
    body = { error: `no answer: ${error.message}`, check: "Is the agent still there?" };
  }
  at("answer").replaceChildren(answered(body));
  at("answer").dataset.verdict = body.verdict || "ERROR";
}

function answered(body) {
  const list = make("dl", {});
  const row = (title, words, names) => list.append(make("dt", {}, title), make("dd", { class: names || "" }, words));
  if (body.error) {
    row("no answer", body.error, "DENIED");
    row("check", body.check || "");
    return list;
  }
  row("verdict", body.verdict, body.verdict);
  row("captured", body.source.captured);
  for (const route of body.routes) {
    if (body.routes.length > 1) row("", `— ${route.verdict} —`, route.verdict);
    if (route.endpoints.length) row("endpoint", route.endpoints.join("\n"));
    row("path", route.path.join(" -> "));
    if (route.tunnel) row("tunnel", route.tunnel);
    if (route.working.length) row("policies", route.working.join("\n"));
    row("because", route.reason ? `${route.words} (${route.reason})` : route.words);
    if (route.dry_run) row("dry run", route.dry_run);
    if (route.to_allow.length) row("to allow", route.to_allow.join("\n"));
  }
  const last = body.last_seen;
  row("last seen", last ? `${last.ended}: ${last.verdict}, ended as ${last.reason}` : "not among the connections that this node remembers");
  for (const warning of body.warnings) row("warning", warning, "PENDING");
  return list;
}

function suggest(names) {
  if (at("names").dataset.names === names.join()) return; // a list that somebody has open would close
  at("names").dataset.names = names.join();
  at("names").replaceChildren(...names.map((each) => make("option", { value: each })));
}

// ---- following ----------------------------------------------------------------------------------------------------

function show() {
  const { status, pods, policies, certificates } = seen.picture;
  at("health").textContent = status.state;
  at("health").className = status.state;
  at("summary").textContent = `${status.summary}; version ${status.version}`;
  const wrong = status.components.filter((one) => one.state !== "ok").map((one) => `${one.component}: ${one.detail}`);
  trouble(wrong.join("; "));
  suggest(pods.map((pod) => `${pod.namespace}/${pod.pod}`));
  showPods(pods);
  showPolicies(policies);
  showCertificates(certificates);
  showFlows();
  showGraph();
}

function trouble(words) {
  at("trouble").hidden = !words;
  at("trouble").textContent = words;
}

function told(event) {
  const body = JSON.parse(event.data);
  seen.flows.push(...body.flows);
  seen.flows.splice(0, Math.max(0, seen.flows.length - KEPT));
  seen.skipped += body.skipped;
  if (body.error) {
    trouble(`${body.error}. ${body.check}`);
    return;
  }
  seen.picture = body;
  show();
  at("link").textContent = `live, ${new Date().toLocaleTimeString()}`;
  document.body.dataset.state = "live";
}

function follow() {
  if (seen.source) seen.source.close();
  const source = new EventSource(`events?${new URLSearchParams({ node: at("node").value })}`);
  seen.source = source;
  // Each stream begins with what is kept, so what came by the former one would be there twice.
  source.addEventListener("open", () => Object.assign(seen, { flows: [], skipped: 0 }));
  source.addEventListener("message", told);
  source.addEventListener("error", () => {
    document.body.dataset.state = "lost";
    at("link").textContent = "no connection to the agent, or too many viewers; trying again";
    source.close();
    setTimeout(() => seen.source === source && follow(), AGAIN_MS);
  });
}

async function begin() {
  const { nodes } = await (await fetch("nodes")).json();
  at("node").replaceChildren(...nodes.map((node) => make("option", {}, node)));
  const wanted = location.hash.slice(1);
  if (nodes.includes(wanted)) at("node").value = wanted;
  at("node").addEventListener("change", () => {
    location.hash = at("node").value;
    Object.assign(seen, { frozen: null });
    follow();
  });
  for (const id of ["find", "verdict", "kind"]) at(id).addEventListener("input", showFlows);
  at("pause").addEventListener("click", () => {
    seen.frozen = seen.frozen ? null : [...seen.flows];
    showFlows();
  });
  at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    explain();
  });
  follow();
}

begin();
