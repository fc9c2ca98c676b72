// 1. Upload to the loaders of files: a button, and files dropped on the node. ComfyUI's own upload options take pictures,
//    sound and video; those of its 3D loader belong to that node.
// 2. Colours of the sockets and wires.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const FOLDER = "3d";
// What each loader opens; whatever else is chosen with it, materials and textures, is uploaded beside it.
const SUFFIXES = {
  T2LoadMesh: [".glb", ".gltf", ".obj", ".ply", ".stl"],
  T2LoadVoxels: [".vxz", ".npz", ".ply"],
  T2LoadLatent: [".safetensors"],
};

async function upload(file) {
  const body = new FormData();
  body.append("image", file);
  body.append("subfolder", FOLDER);
  body.append("type", "input");
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (answer.status !== 200) {
    throw new Error(`${file.name}: the upload failed: ${answer.status} ${answer.statusText}`);
  }
  const { name, subfolder } = await answer.json();
  return subfolder ? `${subfolder}/${name}` : name;
}

async function choose(node, widget, suffixes, files) {
  let chosen;
  try {
    for (const file of files) {
      const name = await upload(file);
      if (chosen === undefined && suffixes.some((suffix) => name.toLowerCase().endsWith(suffix))) chosen = name;
    }
  } catch (error) {
    alert(error.message);
  }
  if (chosen === undefined) return;
  const values = widget.options.values;
  if (Array.isArray(values) && !values.includes(chosen)) values.push(chosen);
  widget.value = chosen;
  widget.callback?.(chosen);
  node.setDirtyCanvas(true, true);
}

const opens = (suffixes, files) =>
  [...files].some((file) => suffixes.some((suffix) => file.name.toLowerCase().endsWith(suffix)));

app.registerExtension({
  name: "TRELLIS2.Files",
  nodeCreated(node) {
    const suffixes = SUFFIXES[node.comfyClass];
    const widget = node.widgets?.find((one) => one.name === "file");
    if (!suffixes || !widget) return;

    const picker = document.createElement("input");
    picker.type = "file";
    picker.multiple = true;
    picker.onchange = () => {
      choose(node, widget, suffixes, [...picker.files]);
      picker.value = "";
    };
    // Not serialised: the saved values of the widgets keep their places.
    const button = node.addWidget("button", "upload", null, () => picker.click(), { serialize: false });
    button.serialize = false;

    node.onDragOver = (event) => [...(event.dataTransfer?.items ?? [])].some((item) => item.kind === "file");
    node.onDragDrop = (event) => {
      const files = [...(event.dataTransfer?.files ?? [])];
      if (!opens(suffixes, files)) return false;
      choose(node, widget, suffixes, files);
      return true;
    };
  },
});

// Meshes are one family of colours, voxels and latents others; what resembles a type of ComfyUI's own has its colour.
const COLORS = {
  T2_MESH: "#26A69A",
  T2_TEXTURED_MESH: "#7FE0D2",
  T2_VOXELS: "#D4E157",
  T2_O_VOXEL: "#9EAD2B",
  T2_STRUCTURE: "#C77DFF",
  T2_SHAPE: "#E07BEA",
  T2_TEXTURE: "#FF9CD6",
  T2_ASSET_OPTIONS: "#C9B79C",
};
const COLOR_OF = { T2_IMAGES: "IMAGE", T2_PIPELINE: "MODEL", T2_CONDITION: "CONDITIONING", T2_SAMPLER: "SAMPLER" };

// A palette blanks the colours of all types that it does not know, whenever one is chosen: what is blank is ours.
function paint(colors) {
  for (const type of [...Object.keys(COLORS), ...Object.keys(COLOR_OF)]) {
    let chosen = colors[type];
    Object.defineProperty(colors, type, {
      configurable: true,
      enumerable: true,
      get: () => chosen || COLORS[type] || colors[COLOR_OF[type]],
      set: (color) => {
        chosen = color;
      },
    });
  }
}

app.registerExtension({
  name: "TRELLIS2.Colors",
  setup() {
    paint(app.canvas.default_connection_color_byType);
    paint(app.canvas.constructor.link_type_colors);
    // Nodes 2.0 read variables, which a palette sets on the root element itself, before any style sheet.
    const variables = [
      ...Object.entries(COLORS),
      ...Object.entries(COLOR_OF).map(([type, other]) => [type, `var(--color-datatype-${other})`]),
    ].map(([type, color]) => `--color-datatype-${type}: ${color};`);
    const style = document.createElement("style");
    style.textContent = `:root { ${variables.join(" ")} }`;
    document.head.append(style);
    app.canvas.setDirty(true, true);
  },
});
