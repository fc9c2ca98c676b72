// ComfyUI, torch for this machine's GPU (uv finds it; without one, the build for the CPU), and the pack.
const PACK = "custom_nodes/ComfyUI-TRELLIS2"
const shell = (path, ...message) => ({ method: "shell.run", params: { venv: "env", path, message } })

module.exports = {
  run: [
    { method: "shell.run", params: { message: "git clone --depth 1 https://github.com/comfyanonymous/ComfyUI app" } },
    {
      method: "shell.run",
      params: { path: "app", message: `git clone --depth 1 https://github.com/comfyui-trellis2/trellis2-assets ${PACK}` },
    },
    shell("app", "uv pip install --torch-backend auto torch torchvision torchaudio", "uv pip install -r requirements.txt"),
    shell("app", `python ${PACK}/install.py`, `python ${PACK}/install.py --run-cli doctor`),
  ],
}
