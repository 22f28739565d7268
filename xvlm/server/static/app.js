// The page: searches as a person types, shows boxes when matching is done, and asks single photos.

const PAGE = 24;
const TYPING_MS = 120;
const byId = (id) => document.getElementById(id);
const state = { hits: [], like: null, request: null, photo: null, part: null, offset: 0 };

// ---- asking the service -------------------------------------------------------------------------

function headers() {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function ask(path, body, signal) {
  const answer = await fetch(path, {
    method: body ? "POST" : "GET",
    headers: { ...headers(), ...(body ? { "Content-Type": "application/json" } : {}) },
    body: body && JSON.stringify(body),
    signal,
  });
  if (answer.status === 401) {
    await login();
    return ask(path, body, signal);
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => null);
    throw new Error(problem?.error?.message ?? `the service answers ${answer.status}`);
  }
  return answer;
}

let loggingIn = null;

function login() {
  loggingIn ??= new Promise((done) => {
    const dialog = byId("login");
    dialog.showModal();
    dialog.addEventListener("close", () => {
      sessionStorage.setItem("token", byId("token").value);
      loggingIn = null;
      done();
    }, { once: true });
  });
  return loggingIn;
}

async function* lines(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += value ?? "";
    const parts = rest.split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
    if (done) return;
  }
}

async function showImage(image, photo, size) {
  const answer = await ask(`/v1/photos/${photo}/thumbnail?size=${size}`);
  const url = URL.createObjectURL(await answer.blob());
  image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
  image.src = url;
}

// ---- searching ----------------------------------------------------------------------------------

async function search(offset = 0) {
  const text = byId("text").value.trim();
  state.request?.abort();
  byId("clear-like").hidden = !state.like;
  remember(text);
  if (!text && !state.like) {
    state.hits = [];
    byId("state").textContent = "";
    show("Type what you are looking for.");
    return;
  }
  const request = (state.request = new AbortController());
  const began = performance.now();
  byId("state").textContent = "searching …";
  // The slider hides what is less certain, so that it can be moved without asking again.
  const body = { k: PAGE, offset, stream: true, min_probability: 0, ...(text ? { text } : {}), ...(state.like ?? {}) };
  const before = offset ? state.hits.slice(0, offset) : [];
  try {
    const answer = await ask("/v1/search", body, request.signal);
    for await (const part of lines(answer)) {
      if (part.error) throw new Error(part.error.message);
      if (request.signal.aborted) return;
      state.hits = [...before, ...part.hits];
      const more = part.hits.length === PAGE;
      const final = part.reranked || !text;
      show(final ? "Nothing in these photos fits." : "", more, !final);
      byId("state").textContent = final ? `${Math.round(performance.now() - began)} ms` : "looking closer …";
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    byId("state").textContent = "";
    state.hits = before;
    show(error.message, false, false, true);
  }
}

function remember(text) {
  const url = new URL(location.href);
  if (text) url.searchParams.set("q", text);
  else url.searchParams.delete("q");
  history.replaceState(null, "", url);
}

function kept() {
  const cut = Number(byId("cut").value) / 100;
  return state.hits.filter((hit) => hit.probability === null || hit.probability >= cut);
}

function show(empty = "", more = false, waiting = false, isError = false) {
  const hits = kept();
  const note = byId("note");
  note.hidden = hits.length > 0 || !(empty || state.hits.length);
  note.textContent = empty || "Nothing is that certain; move the slider to the left.";
  note.classList.toggle("error", isError);
  byId("more").hidden = !more;
  const list = byId("hits");
  list.classList.toggle("waiting", waiting);
  const old = new Map([...list.children].map((item) => [item.dataset.path, item]));
  list.replaceChildren(...hits.map((hit) => card(hit, old.get(hit.path))));
}

function card(hit, old) {
  const item = old ?? document.createElement("li");
  if (!old) {
    item.dataset.path = hit.path;
    item.innerHTML =
      '<button type="button"><span class="frame"><img alt=""><span class="marks"></span></span>' +
      '<span class="caption"><span class="name"></span><span class="probability"></span></span></button>';
    const name = hit.path.split("/").pop();
    item.querySelector(".name").textContent = name;
    item.querySelector("img").alt = name;
    showImage(item.querySelector("img"), hit.photo, 320).catch(() => {
      item.querySelector(".name").textContent = `${name} (gone)`;
    });
  }
  item.querySelector("button").onclick = () => openPhoto(hit);
  const { probability } = hit;
  item.querySelector(".probability").textContent =
    probability === null ? "" : `${Math.round(100 * probability)} %`;
  item.querySelector(".marks").replaceChildren(...hit.boxes_xyxy.map((box) => mark(inFrame(box, hit))));
  return item;
}

/** A box in pixels as percent of a 4:3 frame in which the photo is centred. */
function inFrame([x0, y0, x1, y1], { width, height }) {
  const scale = Math.min(4 / width, 3 / height);
  const [w, h] = [(width * scale) / 4, (height * scale) / 3];
  return [
    (1 - w) / 2 + (x0 / width) * w,
    (1 - h) / 2 + (y0 / height) * h,
    (1 - w) / 2 + (x1 / width) * w,
    (1 - h) / 2 + (y1 / height) * h,
  ];
}

function mark([x0, y0, x1, y1], text = "", kind = "box") {
  const box = document.createElement("span");
  box.className = kind;
  box.style.left = `${100 * x0}%`;
  box.style.top = `${100 * y0}%`;
  box.style.width = `${100 * (x1 - x0)}%`;
  box.style.height = `${100 * (y1 - y0)}%`;
  if (text) {
    const label = document.createElement("span");
    label.textContent = text;
    box.append(label);
  }
  return box;
}

// ---- one photo ----------------------------------------------------------------------------------

function openPhoto(hit) {
  state.photo = hit;
  state.part = null;
  byId("answer").textContent = "";
  byId("phrase").value = "";
  byId("photo-name").textContent = [hit.path, hit.time?.slice(0, 10)].filter(Boolean).join(" · ");
  byId("picture").alt = hit.path.split("/").pop();
  byId("picture").removeAttribute("src");
  showImage(byId("picture"), hit.photo, 1280).catch((error) => {
    byId("answer").textContent = error.message;
  });
  drawBoxes(hit.boxes_xyxy.map((box) => [box, ""]));
  byId("photo").showModal();
  byId("phrase").focus();
}

function drawBoxes(boxes) {
  const { width, height } = state.photo;
  const marks = boxes.map(([[x0, y0, x1, y1], text]) =>
    mark([x0 / width, y0 / height, x1 / width, y1 / height], text));
  if (state.part) marks.push(mark(state.part, "", "box chosen"));
  byId("boxes").replaceChildren(...marks);
  byId("like-part").disabled = !state.part;
}

async function askPhoto(event) {
  event.preventDefault();
  const text = byId("phrase").value.trim();
  if (!text) return;
  const answer = byId("answer");
  const photo = state.photo;
  answer.textContent = "…";
  try {
    if (text.endsWith("?")) {
      const found = await (await ask("/v1/ask", { photo: photo.photo, question: text })).json();
      if (photo === state.photo) answer.textContent = found.answers[0].text;
      return;
    }
    const found = await (await ask("/v1/ground", { photo: photo.photo, phrases: [text] })).json();
    if (photo !== state.photo) return;
    const boxes = found.phrases[0].found;
    drawBoxes(boxes.map((one) => [one.box_xyxy, one.score === null ? "" : `${Math.round(100 * one.score)} %`]));
    answer.textContent = boxes.length ? `${boxes.length} found` : `no ${text} here`;
  } catch (error) {
    answer.textContent = error.message;
  }
}

function dragging() {
  const stage = byId("stage");
  let start = null;
  const place = (event) => {
    const frame = byId("picture").getBoundingClientRect();
    const clip = (value) => Math.min(1, Math.max(0, value));
    return [clip((event.clientX - frame.left) / frame.width), clip((event.clientY - frame.top) / frame.height)];
  };
  const part = (end) => [
    Math.min(start[0], end[0]), Math.min(start[1], end[1]),
    Math.max(start[0], end[0]), Math.max(start[1], end[1]),
  ];
  stage.addEventListener("pointerdown", (event) => {
    start = place(event);
    stage.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  stage.addEventListener("pointermove", (event) => {
    if (!start) return;
    state.part = part(place(event));
    drawBoxes([]);
  });
  stage.addEventListener("pointerup", (event) => {
    if (!start) return;
    const [x0, y0, x1, y1] = part(place(event));
    state.part = x1 - x0 > 0.02 && y1 - y0 > 0.02 ? [x0, y0, x1, y1] : null;
    start = null;
    drawBoxes([]);
  });
}

function searchLike(part) {
  const { photo, width, height } = state.photo;
  state.like = { photo };
  if (part) {
    const [x0, y0, x1, y1] = part;
    state.like.box_xyxy = [x0 * width, y0 * height, x1 * width, y1 * height];
  }
  byId("text").value = "";
  byId("photo").close();
  search();
}

// ---- events -------------------------------------------------------------------------------------

let timer = 0;
byId("text").addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(search, TYPING_MS);
});
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(timer);
  search();
});
byId("cut").addEventListener("input", () => {
  byId("cut-value").textContent = `${byId("cut").value} %`;
  show("", !byId("more").hidden);
});
byId("more").addEventListener("click", () => search(state.hits.length));
byId("clear-like").addEventListener("click", () => {
  state.like = null;
  search();
});
byId("close").addEventListener("click", () => byId("photo").close());
byId("question").addEventListener("submit", askPhoto);
byId("like").addEventListener("click", () => searchLike(null));
byId("like-part").addEventListener("click", () => searchLike(state.part));
dragging();

function setCut(value) {
  byId("cut").value = String(value);
  byId("cut-value").textContent = `${value} %`;
}

ask("/v1/models").then((answer) => answer.json()).then(({ data }) => {
  setCut(Math.round(100 * data[0].min_probability));
  if (state.hits.length) show("", !byId("more").hidden);
}).catch(() => {});
byId("text").value = new URL(location.href).searchParams.get("q") ?? "";
search();
