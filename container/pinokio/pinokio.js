// Copy this folder to `api/trellis2` of Pinokio's home: it is then listed there as an application.
module.exports = {
  version: "2.0",
  title: "TRELLIS.2 in ComfyUI",
  description: "Pictures to 3D meshes with materials. NVIDIA, AMD, Apple or CPU.",
  menu: async (kernel, info) => {
    const running = (name) => info.running(name)
    const item = (icon, text, href, chosen) => ({ icon: `fa-solid fa-${icon}`, text, href, default: chosen })
    for (const name of ["install.js", "update.js", "reset.js"]) {
      if (running(name)) return [item("plug", "Working", name, true)]
    }
    if (!info.exists("app/env")) return [item("plug", "Install", "install.js", true)]
    if (running("start.js")) {
      const memory = info.local("start.js")
      const open = memory && memory.url ? [item("rocket", "Open ComfyUI", memory.url, true)] : []
      return [...open, item("terminal", "Terminal", "start.js", !open.length)]
    }
    return [
      item("power-off", "Start", "start.js", true),
      item("rotate", "Update", "update.js"),
      item("circle-xmark", "Reset", "reset.js"),
    ]
  },
}
