// What can be done to jobs, each with its words, what it asks before, and how it is undone.
import { signal } from '@preact/signals'
import { h } from 'preact'
import * as api from '../api.js'
import { count, plural } from '../format.js'
import { go } from '../place.jsx'
import { refresh } from '../poll.js'
import { say } from '../toast.jsx'
import { clear, cut } from './selection.js'

// What an action will have changed, until the server says so: id -> fields.
export const expected = signal(new Map())
export const asExpected = (job) => (expected.value.has(job.id) ? { ...job, ...expected.value.get(job.id) } : job)

async function expecting(ids, fields, call) {
  expected.value = new Map(ids.map((id) => [id, fields]))
  try {
    return await call()
  } finally {
    await refresh()
    expected.value = new Map()
  }
}

function told(done, words) {
  if (!done.changed && done.refused?.length) return `Nothing was changed: ${done.refused[0].detail}`
  const left = done.refused?.length ? `; ${plural(done.refused.length, 'job')} left out: ${done.refused[0].detail}` : ''
  return `${words} ${plural(done.changed, 'job')}${left}`
}

const PARTIAL = { partial: true }
const idsOf = (which) => (Array.isArray(which) ? which : [])

async function flipPause(which, on) {
  const [act, back, word] = on ? [api.pause, api.start, 'Paused'] : [api.start, api.pause, 'Started']
  const done = await expecting(idsOf(which), { paused: on }, () => act(which, PARTIAL))
  const undo = async () => {
    await back(done.ids || idsOf(which))
    await refresh()
  }
  say(told(done, word), done.changed > 0 && undo)
}

// What would happen, by a rehearsal on the server. `inAll`: to how many, also those in groups, by the farm's counts before and after.
async function ask(which, act, words, end, inAll) {
  const { changed, dry_run: dry, refused } = await act(which, { ...PARTIAL, dryRun: true })
  const many = inAll(dry.before, dry.after)
  const all = many > changed ? `, ${plural(many, 'job')} in all` : ''
  const runs = Math.max(0, dry.before.working - dry.after.working)
  const running = runs ? `, of which ${count(runs)} run now` : ''
  const out = refused?.length ? ` ${plural(refused.length, 'job')} would be left out: ${refused[0].detail}.` : ''
  return `${words} ${plural(changed, 'selected job')}${all}${running}?${out} ${end}`
}

const bulk = (name, label, act, words, end, inAll, after) => ({
  name,
  label,
  confirm: (which) => ask(which, act, words, end, inAll),
  run: async (which) => {
    const done = await act(which, PARTIAL)
    after?.()
    say(told(done, label))
  },
})

const forget = () => {
  clear()
  go({ job: 0 })
}
const begun = ({ working, finished, error }) => working + finished + error
const errorsOnly = (which, how) => api.reset(which, { errorsOnly: true, ...how })

export const BULK = [
  { name: 'pause', label: 'Pause', run: (which) => flipPause(which, true) },
  { name: 'start', label: 'Start', run: (which) => flipPause(which, false) },
  bulk('reset', 'Run again', api.reset, 'Run again:', 'What was finished is done anew, and paid anew.', (before, after) => begun(before) - begun(after)),
  bulk('reset-errors', 'Run errors again', errorsOnly, 'Run the errors again in', 'What was finished stays.', (before, after) => before.error - after.error),
  bulk('skip', 'Skip', api.skip, 'Let count as finished without being run:', 'A reset takes it back.', (before, after) => after.finished - before.finished),
  bulk('delete', 'Delete', api.delete, 'Delete', 'This cannot be undone.', (before, after) => before.total - after.total, forget),
]

// Priorities up or down by a step; undone to what each was.
export async function raise(jobs, step) {
  const before = jobs.map((job) => [job.id, job.priority])
  const groups = new Map()
  for (const [id, priority] of before) {
    const wanted = Math.min(255, Math.max(0, priority + step))
    groups.set(wanted, [...(groups.get(wanted) || []), id])
  }
  for (const [priority, ids] of groups) await api.edit(ids, { priority })
  const undo = async () => {
    for (const [id, priority] of before) await api.edit([id], { priority })
    await refresh()
  }
  say(`Priority ${step > 0 ? 'up' : 'down'} for ${plural(jobs.length, 'job')}`, undo)
}

// What was cut goes into a group; undone to where each was.
export async function paste(parent) {
  const moved = cut.value
  await api.edit(moved.map((job) => job.id), { parent })
  cut.value = []
  const undo = async () => {
    for (const job of moved) await api.edit([job.id], { parent: job.parent })
    await refresh()
  }
  say(`Moved ${plural(moved.length, 'job')}`, undo)
}

export const mayRunElsewhere = (job) => !job.group && job.worker && ['ERROR', 'WORKING'].includes(job.state) && job.allowed_actions.includes('reset')

// Once more, but not where it failed or runs.
async function runElsewhere(job) {
  await api.edit([job.id], { not_workers: [...new Set([...job.not_workers, job.worker])] })
  await api.reset([job.id])
}

// Of jobs, or rows of the list: what runs is asked for first.
export function elsewhere(jobs) {
  const running = jobs.filter((job) => job.state === 'WORKING').length
  return {
    name: 'elsewhere',
    label: 'Run elsewhere',
    confirm: running ? `Run ${jobs.length === 1 ? 'it' : plural(jobs.length, 'job')} on another worker? What ${running === 1 ? 'it did' : 'they did'} so far is lost.` : undefined,
    run: async () => {
      let done = 0
      let reason = 'it is no longer there'
      for (const row of jobs) {
        try {
          const job = await api.job(row.id) // it may have ended since
          if (!mayRunElsewhere(job) || job.worker !== row.worker) continue
          await runElsewhere(job)
          done += 1
        } catch (error) {
          if (error.status === undefined || error.away) throw error
          reason = error.message
        }
      }
      const left = jobs.length - done
      if (!left && done === 1) say(`It will run again, not on ${jobs[0].worker}`)
      else say(`${plural(done, 'job')} will run again, not where each was${left ? `; ${plural(left, 'job')} left out: ${reason}` : ''}`)
    },
  }
}

// Of one job, as the server allows them.
export function actionsOf(job) {
  const ids = [job.id]
  const total = job.counts?.total ?? 1
  const name = job.title && h('bdi', null, job.title) // its letters may turn round what follows
  const what = job.group ? [name || 'this group', ` and the ${plural(total, 'job')} in it`] : [name || `job ${job.id}`]
  const known = {
    pause: { label: 'Pause', run: () => flipPause(ids, true) },
    start: { label: 'Start', run: () => flipPause(ids, false) },
    reset: { label: 'Run again', run: () => api.reset(ids), confirm: ['Run ', ...what, ' again? What was finished is done anew, and paid anew.'] },
    skip: { label: 'Skip', run: () => api.skip(ids), confirm: ['Let ', ...what, ' count as finished without being run?'] },
    delete: {
      label: 'Delete',
      confirm: ['Delete ', ...what, '? This cannot be undone.'],
      run: async () => {
        await api.delete(ids)
        forget()
      },
    },
  }
  const actions = job.allowed_actions.filter((name) => known[name]).map((name) => ({ name, ...known[name] }))
  const failed = job.counts?.error
  if (failed && job.allowed_actions.includes('reset')) {
    actions.unshift({ name: 'reset-errors', label: `Run ${plural(failed, 'error')} again`, run: () => api.reset(ids, { errorsOnly: true }) })
  }
  if (mayRunElsewhere(job)) actions.unshift(elsewhere([job]))
  return actions
}
