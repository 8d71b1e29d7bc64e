"use strict";

const form = document.getElementById("submit");
if (form) start(form);
const progress = document.getElementById("progress");
if (progress) follow(progress);

function start(form) {
  form.hidden = false;
  const said = form.querySelector(".said");
  const drops = [...form.querySelectorAll(".drop")];
  for (const drop of drops) {
    const input = drop.querySelector("input");
    const show = () => { drop.querySelector("output").textContent = [...input.files].map((file) => file.name).join(", "); };
    input.addEventListener("change", show);
    drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      input.files = event.dataTransfer.files;
      show();
    });
  }
  const chosen = () => form.querySelector("input[name=command]:checked");
  const arrange = () => {
    const roles = chosen().dataset.roles.split(" ");
    for (const drop of drops) {
      const own = [drop.dataset.role, drop.dataset.also];
      drop.hidden = !roles.some((role) => own.includes(role));
    }
    for (const options of form.querySelectorAll(".options")) options.hidden = options.dataset.command !== chosen().value;
  };
  form.addEventListener("change", arrange);
  arrange();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button[type=submit]");
    button.disabled = true;
    try {
      const job = { command: chosen().value, options: optionsOf(form, chosen().value) };
      const roles = chosen().dataset.roles.split(" ");
      for (const role of roles) {
        const drop = drops.find((each) => each.dataset.role === role || each.dataset.also === role);
        const files = [...drop.querySelector("input").files];
        if (!files.length) throw new Error(`Choose the ${role} first.`);
        job[role] = role === "data" ? await sendFile(form, files[0]) : await sendModel(form, files);
      }
      const answer = await ask("/v1/jobs", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(job) });
      window.location = `/jobs/${answer.id}`;
    } catch (error) {
      said.textContent = error.message;
      button.disabled = false;
      form.querySelector("progress").hidden = true;
    }
  });
}

function optionsOf(form, command) {
  const found = {};
  for (const field of form.querySelectorAll(`.options[data-command="${command}"] [name]`)) {
    if (field.dataset.kind === "flag") {
      if (field.checked !== JSON.parse(field.dataset.default)) found[field.name] = field.checked;
    } else if (field.tagName === "SELECT") {
      if (field.value !== JSON.parse(field.dataset.default)) found[field.name] = field.value;
    } else if (field.value.trim()) {
      found[field.name] = valueOf(field.dataset.kind, field.value.trim());
    }
  }
  return found;
}

function valueOf(kind, text) {
  if (kind === "text") return text;
  if (kind === "names") return text.split(/[\s,]+/);
  if (kind === "numbers") return text.split(/[\s,]+/).map(Number);
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

async function sendModel(form, files) {
  const models = files.filter((file) => /\.onnx$/i.test(file.name));
  const model = models.length ? models[0] : files.length === 1 ? files[0] : null;
  if (!model || models.length > 1) throw new Error("Choose one .onnx file, and the data files that belong to it.");
  const hashes = {};
  for (const file of files) hashes[file.name] = await sendFile(form, file);
  const answer = await ask("/v1/models", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ model: model.name, files: hashes }) });
  return answer.id;
}

function sendFile(form, file) {
  const bar = form.querySelector("progress");
  const said = form.querySelector(".said");
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/v1/files");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.addEventListener("progress", (event) => {
      bar.hidden = false;
      bar.max = event.total || 1;
      bar.value = event.loaded;
      said.textContent = `Sending ${file.name}`;
    });
    request.addEventListener("load", () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* said below */ }
      if (request.status < 300) resolve(answer.sha256);
      else reject(new Error(answer.detail || `The service answered ${request.status}.`));
    });
    request.addEventListener("error", () => reject(new Error("The service cannot be reached.")));
    request.send(file);
  });
}

async function ask(address, request) {
  const response = await fetch(address, request);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.detail || `The service answered ${response.status}.`);
  return answer;
}

function follow(box) {
  const bar = box.querySelector("progress");
  const events = new EventSource(box.dataset.events);
  events.addEventListener("job", (event) => {
    const job = JSON.parse(event.data);
    if (!["queued", "running"].includes(job.state)) {
      events.close();
      window.location.reload();
      return;
    }
    document.getElementById("verdict").textContent = job.state.charAt(0).toUpperCase() + job.state.slice(1);
    box.querySelector(".stage").textContent = job.stage || (job.state === "queued" ? "waiting" : "working");
    if (job.total) { bar.max = job.total; bar.value = job.done; } else bar.removeAttribute("value");
  });
  const cancel = document.getElementById("cancel");
  if (cancel) {
    cancel.hidden = false;
    cancel.addEventListener("click", () => fetch(cancel.dataset.job, { method: "DELETE" }));
  }
}
