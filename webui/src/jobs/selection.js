// Which jobs are selected: some rows, or all that fit a filter; and which were cut, to be put elsewhere.
import { signal } from '@preact/signals'

const NONE = { ids: new Set(), filter: '' }
export const selection = signal(NONE)
export const cut = signal([])
export const active = signal(0) // the row that the keyboard is on

let anchor = 0 // where a range begins

export const isSelected = (id) => Boolean(selection.value.filter) || selection.value.ids.has(id)
export const clear = () => {
  selection.value = NONE
}

export function only(id) {
  anchor = id
  active.value = id
  selection.value = { ids: new Set([id]), filter: '' }
}

export function flip(id) {
  const ids = new Set(selection.value.ids)
  if (!ids.delete(id)) ids.add(id)
  anchor = id
  active.value = id
  selection.value = { ids, filter: '' }
}

// From the row where the range began to this one, of what is loaded.
export function extend(id, tree) {
  const ids = new Set()
  const from = tree.numberOf(anchor || id)
  const to = tree.numberOf(id)
  for (let number = Math.min(from, to); number <= Math.max(from, to); number += 1) {
    const job = tree.row(number)?.job
    if (job) ids.add(job.id)
  }
  active.value = id
  selection.value = { ids, filter: '' }
}

export function all(filter) {
  selection.value = { ids: new Set(), filter }
}

// The selection as a call takes it: [ids] or { filter }.
export const chosen = () => (selection.value.filter ? { filter: selection.value.filter } : [...selection.value.ids])

// What a list with this place shows, as one filter.
export function filterOf({ parent, filter }) {
  const within = parent || !filter ? `parent:${parent}` : ''
  return [filter, within].filter(Boolean).join(' ')
}
