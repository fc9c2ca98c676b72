// Models and results lie in `app` and go with it: copy them first.
module.exports = { run: [{ method: "fs.rm", params: { path: "app" } }] }
