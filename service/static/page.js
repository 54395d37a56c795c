// The page: pictures in, their classes out. Whatever comes from elsewhere is put in as text, never as HTML.

import { samples, summary } from "./metrics.js";
import { curl, python } from "./snippets.js";

const LOOK_MS = 2000;
const PICTURES_PER_REQUEST = 8;
const TRIES = 4;

const at = (id) => document.getElementById(id);
const pictures = [];
let key = ""; // in this page alone, so that it goes with it
let round = 0;
let taken = 0;

function say(card, text, isError = false) {
  const said = card.querySelector(".said");
  said.textContent = text;
  said.classList.toggle("error", isError);
}

/** fetch, with the API key if there is one; where one is needed, the page asks for it. */
async function ask(path, options = {}) {
  const response = await fetch(path, key ? { ...options, headers: { ...options.headers, "X-API-Key": key } } : options);
  at("access").hidden = response.status !== 401 && key === "";
  return response;
}

function cardOf(file) {
  const card = at("card").content.firstElementChild.cloneNode(true);
  const [figure, image] = [card.querySelector("figure"), card.querySelector("img")];
  image.alt = file.name;
  image.onload = () => URL.revokeObjectURL(image.src);
  image.onerror = () => {
    figure.classList.add("unseen");
    URL.revokeObjectURL(image.src);
  };
  image.src = URL.createObjectURL(file);
  card.querySelector("figcaption").textContent = file.name;
  at("results").append(card);
  return card;
}

function add(files) {
  const added = [...files].map((file) => ({ file, card: cardOf(file) }));
  pictures.push(...added);
  classify(added);
}

function url() {
  const [model, version] = JSON.parse(at("model").value || "[]");
  return `${location.origin}/classify?${new URLSearchParams(model ? { model, version } : {})}`;
}

async function classify(some) {
  const mine = round;
  for (let start = 0; start < some.length; start += PICTURES_PER_REQUEST) {
    if (mine !== round) return;
    const group = some.slice(start, start + PICTURES_PER_REQUEST);
    for (const { card } of group) say(card, "waiting");
    try {
      await send(group, mine);
    } catch (error) {
      for (const { card } of group) say(card, `the service cannot be reached: ${error.message}`, true);
    }
  }
  const names = some.map(({ file }) => file.name);
  at("curl").textContent = curl(url(), names);
  at("python").textContent = python(url(), names);
  at("again").hidden = names.length === 0;
}

async function send(group, mine) {
  const body = new FormData();
  for (const { file } of group) body.append("files", file, file.name);
  for (let left = TRIES - 1; ; left--) {
    const response = await ask(url(), { method: "POST", body });
    const answer = await response.json();
    if (mine !== round) return;
    if (answer.results) {
      answer.results.forEach((result, index) => show(group[index].card, result, response.headers.get("server-timing")));
      return;
    }
    const seconds = Number(response.headers.get("retry-after"));
    if (![429, 503].includes(response.status) || left === 0) {
      for (const { card } of group) say(card, answer.detail, true);
      return;
    }
    for (const { card } of group) say(card, `${answer.detail}; trying again in ${seconds || 1} s`, true);
    await new Promise((wake) => setTimeout(wake, 1000 * (seconds || 1)));
  }
}

function show(card, result, timing) {
  const bars = card.querySelector(".bars");
  bars.replaceChildren();
  card.querySelector(".times").textContent = times(timing);
  if (result.error) {
    say(card, result.error.message, true);
    return;
  }
  say(card, `${result.predictions[0].label}, ${percent(result.predictions[0].probability)}`);
  for (const { label, probability } of result.predictions) {
    const bar = document.createElement("li");
    bar.style.setProperty("--share", probability);
    const [name, share] = [document.createElement("span"), document.createElement("span")];
    name.textContent = label;
    share.textContent = percent(probability);
    bar.append(name, share);
    bars.append(bar);
  }
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

/** "read 0.1 ms, decode …" of a Server-Timing header. */
function times(header) {
  return [...(header ?? "").matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, stage, ms]) => `${stage} ${ms} ms`).join(", ");
}

async function listModels() {
  const response = await ask("/models");
  const { models, detail } = await response.json();
  if (!models) {
    at("status").textContent = detail;
    return;
  }
  at("model").replaceChildren();
  for (const { name, version, provider, artifact } of models) {
    const option = document.createElement("option");
    option.value = JSON.stringify([name, version]);
    option.textContent = `${name} ${version}, ${artifact.precision}, ${provider.replace("ExecutionProvider", "")}`;
    at("model").append(option);
  }
  at("status").textContent = models.length ? "" : "The service is not ready yet; reload the page soon.";
}

let last = null;

async function look() {
  if (document.visibilityState !== "visible") return;
  try {
    const response = await ask("/metrics", { headers: { accept: "text/plain;version=0.0.4" } });
    if (!response.ok) throw new Error("no metrics here");
    const now = { at: performance.now(), samples: samples(await response.text(), "stripmlp_") };
    if (last) {
      const { rate, p99, queue, limit } = summary(last.samples, now.samples, (now.at - last.at) / 1000);
      at("rate").textContent = `${rate.toFixed(1)} /s`;
      at("p99").textContent = p99 === null ? "–" : p99 === Infinity ? "over all" : `≤ ${Math.round(1000 * p99)} ms`;
      at("queue").textContent = `${queue} of ${limit}`;
    }
    last = now;
  } catch {
    for (const id of ["rate", "p99", "queue"]) at(id).textContent = "–";
    last = null;
  }
}

async function openCamera() {
  try {
    at("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
    at("viewer").showModal();
  } catch (error) {
    at("status").textContent = `There is no camera that may be used: ${error.message}`;
  }
}

function closeCamera() {
  for (const track of at("video").srcObject?.getTracks() ?? []) track.stop();
  at("video").srcObject = null;
}

function takePicture() {
  const video = at("video");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => add([new File([blob], `camera-${++taken}.jpg`, { type: blob.type })]), "image/jpeg", 0.95);
  at("viewer").close();
}

function clear() {
  round++;
  pictures.length = 0;
  at("results").replaceChildren();
  at("again").hidden = true;
}

at("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});
at("clear").addEventListener("click", clear);
at("access").addEventListener("submit", async (event) => {
  event.preventDefault();
  key = at("key").value;
  await listModels();
  classify(pictures.slice());
});
at("model").addEventListener("change", () => {
  round++;
  classify(pictures.slice());
});
at("camera").addEventListener("click", openCamera);
at("take").addEventListener("click", takePicture);
at("close").addEventListener("click", () => at("viewer").close());
at("viewer").addEventListener("close", closeCamera);
document.addEventListener("paste", (event) => event.clipboardData.files.length && add(event.clipboardData.files));
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", () => navigator.clipboard.writeText(at(button.dataset.copies).textContent));
}

await listModels();
setInterval(look, LOOK_MS);
look();
