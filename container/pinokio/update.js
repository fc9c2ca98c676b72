const PACK = "custom_nodes/ComfyUI-TRELLIS2"

module.exports = {
  run: [
    { method: "shell.run", params: { path: "app", message: "git pull" } },
    { method: "shell.run", params: { path: `app/${PACK}`, message: "git pull" } },
    {
      method: "shell.run",
      params: { venv: "env", path: "app", message: ["uv pip install -r requirements.txt", `python ${PACK}/install.py`] },
    },
  ],
}
