// The list as a table for spreadsheets, all pages of it.
import * as api from '../api.js'
import { shownState } from './columns.jsx'

const MOST = 100_000
const FIELDS = ['id', 'parent', 'title', 'group', 'state', 'paused', 'user', 'priority', 'progress', 'worker', 'errors', 'run_s', 'cost_micro', 'created_at', 'started_at', 'ended_at', 'affinity', 'reason']
const HEAD = ['id', 'parent', 'title', 'state', 'user', 'priority', 'progress', 'worker', 'errors', 'run_s', 'cost', 'created', 'started', 'ended', 'affinity', 'reason']

// A text that a spreadsheet would take for a formula stays a text.
function cell(value) {
  const text = String(value ?? '')
  const safe = typeof value === 'string' && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}

export const toCsv = (rows) => `${rows.map((row) => row.map(cell).join(',')).join('\r\n')}\r\n`

export function save(name, parts, type) {
  const address = URL.createObjectURL(new Blob(parts, { type }))
  const anchor = document.createElement('a')
  anchor.href = address
  anchor.download = name
  anchor.click()
  setTimeout(() => URL.revokeObjectURL(address), 10_000)
}

const at = (seconds) => (seconds ? new Date(seconds * 1000).toISOString() : '')

export async function saveJobs(query) {
  const rows = [HEAD]
  let cursor = ''
  do {
    const answer = await api.page({ ...query, fields: FIELDS.join(), limit: 1_000, cursor })
    for (const job of answer.jobs) {
      const { id, parent, title, user, priority, progress, worker, errors, run_s: run, affinity, reason } = job
      const times = [job.created_at, job.started_at, job.ended_at].map(at)
      rows.push([id, parent, title, shownState(job), user, priority, progress, worker, errors, run, job.cost_micro / 1e6, ...times, affinity.join(' '), reason])
    }
    cursor = answer.next
  } while (cursor && rows.length <= MOST)
  save('jobs.csv', [toCsv(rows)], 'text/csv')
}
