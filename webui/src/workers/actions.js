// What can be done to workers, one or many, as the server allows it for each; and which are selected.
import { signal } from '@preact/signals'
import * as api from '../api.js'
import { plural } from '../format.js'
import { go } from '../place.jsx'

export const chosen = signal(new Set())
export const active = signal(0) // the row that the keyboard is on

const NAMED = 5 // jobs

function runsWords(workers) {
  const running = workers.reduce((sum, worker) => sum + worker.running, 0)
  if (!running) return ''
  const jobs = workers.flatMap((worker) => worker.jobs)
  const named = jobs.slice(0, NAMED).map((id) => `#${id}`).join(', ')
  return ` ${plural(running, 'job')} on ${workers.length === 1 ? 'it' : 'them'} will be run again elsewhere: ${named}${jobs.length > NAMED ? ' …' : '.'}`
}

// `instances`: the machines of the cloud that are paid for, by their number.
export function actionsOf(workers, instances = new Map()) {
  const allowing = (name) => workers.filter((worker) => worker.allowed_actions.includes(name))
  const idsOf = (some) => some.map((worker) => worker.id)
  const name = workers.length === 1 ? workers[0].name : plural(workers.length, 'worker')
  const rented = workers.filter((worker) => instances.get(worker.instance)?.allowed_actions.includes('terminate'))
  const off = allowing('edit').filter((worker) => !worker.active)
  const on = allowing('edit').filter((worker) => worker.active)
  const all = [
    { name: 'start', label: 'Switch on', of: off, run: () => api.editWorkers(idsOf(off), { active: true }) },
    { name: 'stop', label: 'Switch off', of: on, run: () => api.editWorkers(idsOf(on), { active: false }) },
    { name: 'drain', label: 'Drain', of: allowing('drain'), run: () => api.drainWorkers(idsOf(allowing('drain'))) },
    { name: 'resume', label: 'Resume', of: allowing('resume'), run: () => api.resumeWorkers(idsOf(allowing('resume'))) },
    {
      name: 'terminate',
      label: 'Terminate',
      of: rented,
      confirm: `End ${rented.length === 1 ? `the machine of ${rented[0].name}` : plural(rented.length, 'machine')} now?${runsWords(rented)}`,
      run: () => api.terminateInstances(rented.map((worker) => worker.instance)),
    },
    {
      name: 'delete',
      label: 'Delete',
      of: allowing('delete'),
      confirm: `Delete ${name}?${runsWords(allowing('delete'))}`,
      run: async () => {
        await api.deleteWorkers(idsOf(allowing('delete')))
        chosen.value = new Set()
        go({ worker: 0 })
      },
    },
  ]
  return all.filter((action) => action.of.length)
}
