// Find a phrase in a photo with the graphs of `xvlm export`, by onnxruntime-web.

import * as ort from "./ort/ort.wasm.min.mjs";
import { cleanCaption, Tokenizer } from "./tokenizer.js";

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send

const element = (id) => document.getElementById(id);
const say = (text) => (element("status").textContent = text);
const folder = new URLSearchParams(location.search).get("model") ?? "model";

/** The model of a folder: its graphs, tokenizer and settings. */
class Model {
  static async load(folder) {
    const json = async (name) => (await fetch(`${folder}/${name}`)).json();
    const model = new Model();
    [model.settings, model.tokenizer] = [await json("export.json"), new Tokenizer(await json("tokenizer.json"))];
    const needed = model.settings.heads.includes("box") && model.settings.heads.includes("matching");
    if (!needed || !model.settings.has_mean) {
      throw new Error("this page needs a model with the heads box and matching, and an image encoder without class token");
    }
    const names = ["image", "text", "fusion"];
    const sessions = await Promise.all(names.map((name) => ort.InferenceSession.create(`${folder}/${name}.onnx`)));
    model.sessions = Object.fromEntries(names.map((name, number) => [name, sessions[number]]));
    return model;
  }

  /** Encode the upright photo of a canvas or an image. */
  async encode(photo) {
    const [height, width] = this.settings.image_hw;
    const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(photo, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    const pixels = new Uint8Array(3 * width * height);
    for (let place = 0; place < width * height; place++) {
      for (let channel = 0; channel < 3; channel++) pixels[channel * width * height + place] = data[4 * place + channel];
    }
    return this.run("image", { pixels: new ort.Tensor("uint8", pixels, [1, 3, height, width]) });
  }

  /** Return the box of a phrase, [x0, y0, x1, y1] as parts of the photo, and how probable it is. */
  async ground(features, phrase) {
    const { max_words: maxWords, max_tokens: maxTokens, grid_hw: [rows, columns] } = this.settings;
    const ids = this.tokenizer.encode(cleanCaption(phrase, maxWords), maxTokens);
    const mask = new ort.Tensor("bool", new Uint8Array(ids.length).fill(1), [1, ids.length]);
    const text = await this.run("text", {
      ids: new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]), mask,
    });
    const fuse = (patches) => this.run("fusion", {
      states: text.states, mask, tokens: features.tokens, finer: features.finer,
      image: new ort.Tensor("int64", new BigInt64Array(1), [1]),
      patches: new ort.Tensor("bool", patches, [1, rows * columns]),
    });
    const [x, y, w, h] = (await fuse(new Uint8Array(rows * columns).fill(1))).box.data;
    const box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2].map((side) => Math.min(1, Math.max(0, side)));
    const fused = await fuse(patchesTouched(box, rows, columns));
    const { scale, offset } = this.settings.calibration.ground;
    return { box, probability: 1 / (1 + Math.exp(-(scale * fused.match_log_odds.data[0] + offset))) };
  }

  /** Run a graph with those of the inputs that it has. */
  async run(name, inputs) {
    const session = this.sessions[name];
    return session.run(Object.fromEntries(session.inputNames.map((one) => [one, inputs[one]])));
  }
}

/** Return which patches a box touches, at least one, row by row. */
function patchesTouched([x0, y0, x1, y1], rows, columns) {
  const between = (start, end, cells) => {
    const near = (value) => (Math.abs(value - Math.round(value)) < 1e-5 ? Math.round(value) : value);
    const first = Math.min(cells - 1, Math.max(0, Math.floor(near(start * cells))));
    return [first, Math.max(first + 1, Math.min(cells, Math.ceil(near(end * cells))))];
  };
  const [left, right] = between(x0, x1, columns), [top, bottom] = between(y0, y1, rows);
  return Uint8Array.from({ length: rows * columns }, (_, place) => {
    const row = Math.floor(place / columns), column = place % columns;
    return row >= top && row < bottom && column >= left && column < right ? 1 : 0;
  });
}

let model, photo, features;

async function open(file) {
  say("encoding the photo");
  photo = await createImageBitmap(file, { imageOrientation: "from-image" });
  [element("picture").width, element("picture").height] = [photo.width, photo.height];
  element("picture").getContext("2d").drawImage(photo, 0, 0);
  features = await model.encode(photo);
  say("ready");
}

async function find() {
  const start = performance.now();
  const { box, probability } = await model.ground(features, element("phrase").value);
  const context = element("picture").getContext("2d"), sides = [photo.width, photo.height];
  const [x0, y0, x1, y1] = box.map((side, place) => side * sides[place % 2]);
  context.drawImage(photo, 0, 0);
  context.lineWidth = Math.max(2, photo.width / 150);
  context.strokeStyle = "#f2a900";
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  say(`probability ${probability.toFixed(3)}, ${(performance.now() - start).toFixed(0)} ms`);
  globalThis.lastAnswer = { box: [x0, y0, x1, y1], probability };
}

const guarded = (action) => async (...given) => {
  element("ground").disabled = true;
  try {
    await action(...given);
  } catch (error) {
    say(error.message);
  }
  element("ground").disabled = !features;
};

element("photo").addEventListener("change", guarded((event) => open(event.target.files[0])));
element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(find)();
});
guarded(async () => {
  model = await Model.load(folder);
  element("photo").disabled = false;
  say("choose a photo");
})();
