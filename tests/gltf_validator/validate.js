// node validate.js FILE...: prints one JSON object, file name to the report of Khronos' glTF validator.
const fs = require("fs");
const validator = require("gltf-validator");

async function main() {
  const reports = {};
  for (const file of process.argv.slice(2)) {
    reports[file] = await validator.validateBytes(new Uint8Array(fs.readFileSync(file)), { maxIssues: 0 });
  }
  console.log(JSON.stringify(reports));
}

main();
