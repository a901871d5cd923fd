"use strict";

// Colours of visualization/palette.py.
const MASKED = [76, 106, 133];
const MISSED = [213, 94, 0], INVENTED = [240, 228, 66], CONFUSED = [204, 121, 167];

// A mosaic (report/mosaic.py) back to the bytes of its volume, row-major over D, H, W.
async function decode(uri, [depth, height, width], columns) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  const grid = new OffscreenCanvas(image.width, image.height).getContext("2d", { willReadFrequently: true });
  grid.drawImage(image, 0, 0);
  const volume = new Uint8Array(depth * height * width);
  for (let d = 0; d < depth; d++) {
    const slice = grid.getImageData((d % columns) * width, Math.floor(d / columns) * height, width, height).data;
    for (let i = 0; i < height * width; i++) volume[d * height * width + i] = slice[4 * i];
  }
  return volume;
}

// Which voxel row and column of a slice show, and the slice's size.
function plane(axis, slice, [depth, height, width]) {
  return [
    { rows: height, columns: width, voxel: (r, c) => (slice * height + r) * width + c },
    { rows: depth, columns: width, voxel: (r, c) => (r * height + slice) * width + c },
    { rows: depth, columns: height, voxel: (r, c) => (r * height + c) * width + slice },
  ][axis];
}

function errorColour(label, reference, ignore) {
  if (label === reference || reference === ignore) return null;
  return label === 0 ? MISSED : reference === 0 ? INVENTED : CONFUSED;
}

// Colour of one voxel of a panel and how much of it covers the grey.
function layer(panel, volumes, i, state, data) {
  if (panel.mask && volumes[panel.mask][i] && !panel.fill) return [MASKED, 1];
  if (!panel.labels) return [null, 0];
  const label = volumes[panel.labels][i];
  if (!state.errors) return [data.colours[label], label ? state.opacity : 0];
  const colour = panel.reference ? errorColour(label, volumes[panel.reference][i], data.ignore) : null;
  return [colour, colour ? 1 : 0];
}

function draw(canvas, panel, volumes, state, data) {
  const { rows, columns, voxel } = plane(state.axis, state.slice, data.shape);
  canvas.width = columns;
  canvas.height = rows;
  const [first, second] = [0, 1, 2].filter((axis) => axis !== state.axis);
  canvas.style.aspectRatio = `${columns * data.voxelSize[second]} / ${rows * data.voxelSize[first]}`;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  const base = volumes[panel.base];
  const fill = panel.fill && volumes[panel.fill[state.epoch]];
  for (let r = 0, at = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++, at += 4) {
      const i = voxel(r, c);
      const grey = fill && volumes[panel.mask][i] ? fill[i] : base[i];
      const [colour, part] = layer(panel, volumes, i, state, data);
      for (let k = 0; k < 3; k++) pixels.data[at + k] = part ? part * colour[k] + (1 - part) * grey : grey;
      pixels.data[at + 3] = 255;
    }
  }
  context.putImageData(pixels, 0, 0);
}

async function start(viewer) {
  const data = JSON.parse(viewer.querySelector("script").textContent);
  const names = Object.keys(data.mosaics);
  const decoded = await Promise.all(names.map((name) => decode(data.mosaics[name], data.shape, data.columns)));
  const volumes = Object.fromEntries(names.map((name, n) => [name, decoded[n]]));
  const control = (name) => viewer.querySelector(`[name=${name}]`);
  const slices = [...data.start];
  const say = (input, text) => { if (input) input.parentElement.querySelector("output").textContent = text; };

  function show() {
    const axis = Number(control("plane").value);
    const state = {
      axis,
      slice: slices[axis],
      epoch: Number(control("epoch")?.value ?? 0),
      opacity: Number(control("opacity")?.value ?? 0) / 100,
      errors: control("errors")?.checked,
    };
    control("slice").max = data.shape[axis] - 1;
    control("slice").value = state.slice;
    say(control("slice"), `${state.slice + 1} of ${data.shape[axis]}`);
    say(control("epoch"), data.epochs[state.epoch]);
    say(control("opacity"), `${Math.round(100 * state.opacity)} %`);
    viewer.classList.toggle("only-errors", Boolean(state.errors));
    for (const edge of ["top", "bottom", "left", "right"]) {
      viewer.querySelectorAll(`.slice .${edge}`).forEach((mark) => { mark.textContent = data.planes[axis][edge]; });
    }
    viewer.querySelectorAll("canvas").forEach((canvas, n) => draw(canvas, data.panels[n], volumes, state, data));
    viewer.querySelectorAll(".canvases .note").forEach((note, n) => {
      if (data.panels[n].notes) note.textContent = data.panels[n].notes[state.epoch];
    });
    viewer.parentElement.querySelectorAll("g[data-epoch]").forEach((group) => {
      group.style.display = Number(group.dataset.epoch) === data.epochs[state.epoch] ? "" : "none";
    });
  }

  control("slice").addEventListener("input", () => { slices[control("plane").value] = Number(control("slice").value); });
  for (const event of ["input", "change"]) viewer.addEventListener(event, show); // a select may send the second alone
  show();
  viewer.dataset.ready = "true";
}

// Numbers by size, text by the reader's alphabet; what is not a number stays last.
function compare(a, b, sign) {
  const [x, y] = [a, b].map((cell) => ("number" in cell.dataset ? Number(cell.dataset.number) : null));
  if (x === null || y === null) return sign * a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
  return sign * (x - y);
}

function sortBy(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const order = heads[column].getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  heads.forEach((head, n) => (n === column ? head.setAttribute("aria-sort", order) : head.removeAttribute("aria-sort")));
  const sign = order === "ascending" ? 1 : -1;
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => compare(a.cells[column], b.cells[column], sign)));
}

document.querySelectorAll(".viewer").forEach(start);
document.querySelectorAll("table.sortable").forEach((table) => {
  table.querySelectorAll("thead button").forEach((button, column) => button.addEventListener("click", () => sortBy(table, column)));
});
