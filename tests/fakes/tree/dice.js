// Walks made by dice through lists that change meanwhile: node dice.js WALKS SEED. Prints how many went well, and what went wrong.
import { list } from './api.js'
import { Tree } from './jobs/tree.js'

const [walks, seed] = process.argv.slice(2).map(Number)

function diceOf(start) {
  let state = start
  return (sides) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * sides)
  }
}

// Rows come or go at the beginning, at the end, or anywhere between.
function change(dice) {
  const many = [1 + dice(3), 1 + dice(30), 1 + dice(300), 100][dice(4)] // 100: a page
  const at = [0, list.ids.length, dice(list.ids.length + 1)][dice(3)]
  if (dice(2)) return list.ids.splice(at === list.ids.length ? Math.max(0, at - many) : at, many)
  const [before, behind] = [list.ids[at - 1], list.ids[at]]
  const [low, high] = [before ?? (behind ?? 0) + list.step * 1000, behind ?? (before ?? 0) - list.step * 1000]
  const fresh = Array.from({ length: many }, (_, n) => low + ((high - low) * (n + 1)) / (many + 1))
  return list.ids.splice(at, 0, ...fresh)
}

const shown = (tree) => {
  const [first, last] = tree.view
  const rows = []
  for (let number = first; number <= Math.min(last, tree.length - 1); number += 1) rows.push(tree.row(number)?.job?.id)
  return rows
}

// What is wrong with what is in view, once nothing changes any more.
function faultOf(tree) {
  const { ids } = list
  const rows = shown(tree)
  const [first, last] = tree.view
  if (rows.includes(undefined)) return `rows in view are not loaded: ${rows}`
  if (!ids.length) return tree.length ? `an empty list is ${tree.length} long` : ''
  if (!rows.length) return `nothing is in view of ${ids.length} from ${first} on, as ${tree.length} are known`
  const at = ids.indexOf(rows[0])
  if (rows.some((id, n) => ids[at + n] !== id)) return `not one after the other: ${rows}`
  if (first === 0 && at !== 0) return `${at} rows before the first`
  if (last >= tree.length - 1 && ids[at + rows.length - 1] !== ids[ids.length - 1]) return `${ids.length - at - rows.length} rows after the last`
  return ''
}

// As a window does it: never beyond the end.
const scrollTo = (tree, first) => {
  const to = Math.max(0, Math.min(first, tree.length - 40))
  return tree.show(to, Math.min(to + 39, Math.max(0, tree.length - 1)))
}

async function rest(tree) {
  for (let turn = 0; turn < 8; turn += 1) {
    await scrollTo(tree, tree.view[0])
    await tree.refresh()
  }
}

async function walk(dice) {
  const down = dice(2) === 1
  list.step = down ? 1 : -1
  list.after = down ? (id, last) => id < last : (id, last) => id > last
  list.ids = Array.from({ length: [0, 50, 250, 5000][dice(4)] }, (_, n) => -list.step * (n + 1) * 1000)
  list.told = dice(4) > 0
  list.counted = dice(2) ? 1000 : Infinity
  list.below = dice(3) ? 0 : 20_000
  list.slowness = () => dice(4)
  const tree = new Tree({})
  await tree.refresh()
  for (let turn = 0; turn < 12; turn += 1) {
    const going = []
    if (dice(2)) change(dice)
    if (dice(2)) going.push(scrollTo(tree, [0, tree.length, dice(tree.length + 1), tree.view[0] + dice(200) - 100][dice(4)]))
    if (dice(2)) going.push(tree.refresh())
    if (dice(3) === 0) change(dice)
    await Promise.all(going)
    if (dice(3)) continue
    await rest(tree)
    const fault = faultOf(tree)
    if (fault) return fault
  }
  await rest(tree)
  await scrollTo(tree, Infinity)
  for (let turn = 0; turn < 400 && tree.view[1] < tree.length - 1; turn += 1) await scrollTo(tree, Infinity)
  await rest(tree)
  await scrollTo(tree, Infinity)
  await rest(tree)
  return faultOf(tree)
}

let fault = ''
let well = 0
while (!fault && well < walks) {
  fault = await walk(diceOf(seed + well))
  if (!fault) well += 1
}
console.log(fault ? `walk ${seed + well}: ${fault}` : `${well} walks went well`)
