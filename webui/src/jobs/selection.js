// Which jobs are selected: some rows, or all that fit a filter; and which were cut, to be put elsewhere.
import { signal } from '@preact/signals'
import { say } from '../toast.jsx'

const NONE = { ids: new Set(), filter: '' }
export const selection = signal(NONE)
export const cut = signal([])
export const active = signal(0) // the row that the keyboard is on

let anchor = 0 // where a range begins

export const isSelected = (id) => Boolean(selection.value.filter) || selection.value.ids.has(id)
export const clear = () => {
  anchor = 0
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

// From the row where the range began to this one; not where it cannot tell what is in between.
export function extend(id, tree) {
  const ids = new Set()
  anchor ||= id
  const from = tree.numberOf(anchor)
  const to = tree.numberOf(id)
  for (let number = Math.min(from, to); number <= Math.max(from, to); number += 1) {
    const job = tree.row(number)?.job
    if (job) ids.add(job.id)
  }
  if (from < 0 || ids.size <= Math.abs(from - to)) return say('Nothing more is selected: some of the rows between are not loaded. A filter selects all that match.')
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
