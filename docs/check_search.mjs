// node docs/check_search.mjs SITE QUERY...: print the page that the site's own search puts first, a line for each query.
import fs from "node:fs"
import path from "node:path"
import vm from "node:vm"

const [site, ...queries] = process.argv.slice(2)
const folder = path.join(site, "assets/javascripts/workers")
const worker = fs.readFileSync(path.join(folder, fs.readdirSync(folder).find(name => /^search\..*\.js$/.test(name))), "utf8")
const index = JSON.parse(fs.readFileSync(path.join(site, "search/search_index.json"), "utf8"))

let handle, answer
const scope = {
  addEventListener: (_, listener) => (handle = listener),
  postMessage: message => (answer = message.data),
  location: { href: "http://localhost/assets/javascripts/workers/search.js" },
  console,
  URL,
}
scope.self = scope
vm.runInNewContext(worker, scope)
await handle({ data: { type: 0, data: { ...index, options: {} } } }) // SearchMessageType.SETUP
for (const query of queries) {
  await handle({ data: { type: 2, data: query } }) // SearchMessageType.QUERY
  console.log(answer.items.length ? answer.items[0][0].location.split("#")[0] : "")
}
