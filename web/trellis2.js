// Upload to the loaders of files: a button, and files dropped on the node. ComfyUI's own upload options take pictures,
// sound and video; those of its 3D loader belong to that node.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const FOLDER = "3d";
// What each loader opens; whatever else is chosen with it, materials and textures, is uploaded beside it.
const SUFFIXES = {
  T2LoadMesh: [".glb", ".gltf", ".obj", ".ply", ".stl"],
  T2LoadVoxels: [".vxz", ".npz", ".ply"],
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
