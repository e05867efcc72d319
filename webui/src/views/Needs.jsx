// What needs a human, on top of the farm: each line with its one action.
import * as api from '../api.js'
import { count, money, plural } from '../format.js'
import { Actions, Glyph, Section } from '../parts.jsx'
import { go, Link } from '../place.jsx'
import { useLive } from '../poll.js'

const TIGHT = 0.9 // of a budget, where it names no share to tell at
const LATE = 0.75 // what is told before is for knowing, not for doing
const LOOKED_AT = 100 // of the newest instances
const ERRORS = 'state:ERROR group:no'

const resume = (run) => ({ name: 'resume', label: 'Resume', run })
const show = (label, to) => ({ name: 'show', label, run: async () => go(to) })

function failedJobs(errors) {
  if (!errors) return []
  const to = { view: 'jobs', filter: ERRORS, parent: 0 }
  return [{ key: 'errors', state: 'ERROR', name: plural(errors, 'job'), words: 'ended with errors', to, action: show('Look', to) }]
}

function sickWorkers(workers) {
  return workers
    .filter((worker) => worker.state === 'SICK')
    .map((worker) => ({
      key: `worker ${worker.id}`,
      state: 'SICK',
      name: worker.name,
      to: { view: 'workers', worker: worker.id },
      words: worker.reason,
      action: worker.allowed_actions.includes('resume') && resume(() => api.resumeWorkers([worker.id])),
    }))
}

function silentWorkers(workers) {
  const silent = workers.filter((worker) => worker.state === 'TIMEOUT')
  if (!silent.length) return []
  const [one] = silent
  const alone = silent.length === 1
  const to = { view: 'workers', worker: alone ? one.id : 0 }
  const words = alone ? one.reason : `${plural(silent.length, 'worker')} have not been heard of`
  return [{ key: 'silent', state: 'TIMEOUT', name: alone ? one.name : 'Silent workers', to, words, action: show('Look', to) }]
}

// A pool that starts nothing, because its boots failed or its cloud refused; and its offers that are out for a while.
function blockedPools(pools) {
  const line = (pool, name, words, state) => ({
    key: `pool ${pool.name} ${name}`,
    state,
    name,
    to: { view: 'cloud' },
    words,
    action: pool.allowed_actions.includes('resume') && resume(() => api.resumePools([pool.name])),
  })
  return pools.flatMap((pool) => {
    if (pool.blocked) return [line(pool, `pool ${pool.name}`, pool.blocked, 'ERROR')]
    const [first, ...more] = pool.blocks || []
    if (!first) return []
    return [line(pool, `${pool.name}: ${first.offering}`, `${first.reason}${more.length ? `; ${plural(more.length, 'more offer')} blocked` : ''}`, 'PAUSED')]
  })
}

// Machines that did not come up, and what the newest of them printed.
function failedBoots(failed) {
  return failed.slice(0, 1).map((newest) => {
    const to = { view: 'cloud', ended: '1', instance: newest.id }
    const name = failed.length === 1 ? newest.provider_id || `instance ${newest.id}` : plural(failed.length, 'machine')
    return { key: 'boots', state: 'FAILED', name, to, words: `did not come up in the last day: ${newest.reason}`, action: show('Console', to) }
  })
}

// Spend that has reached the first share that its budget tells of, and what is foretold to pass the cap.
function tightBudgets(budgets) {
  return budgets.flatMap((budget) => {
    const { cap_micro: cap, committed_micro: committed, currency } = budget
    const marks = (budget.alert || []).filter((mark) => mark >= LATE && mark * cap <= committed)
    const told = budget.alert?.length ? marks.length > 0 : committed >= TIGHT * cap
    if (!cap || !told) return []
    const words = `${money(budget.left_micro, currency)} left of ${money(cap, currency)}${marks.length ? `: ${Math.round(100 * Math.max(...marks))} % reached` : ''}`
    const edit = budget.allowed_actions?.includes('edit')
    const to = { view: 'money', budget: budget.name }
    return [{ key: `budget ${budget.name}`, state: 'PAUSED', name: `budget ${budget.name}`, to: { view: 'money' }, words, action: show(edit ? 'Change' : 'Look', edit ? to : { view: 'money' }) }]
  })
}

const DAY_S = 86_400

export function Needs({ farm }) {
  const workers = useLive('workers:bad', () => api.workers({ state: 'SICK,TIMEOUT' }), 2).data || []
  const pools = useLive('pools', api.pools, 5).data || []
  const budgets = useLive('budgets', api.budgets, 5).data || []
  const instances = useLive('instances:newest', () => api.instances({ all: 1, limit: LOOKED_AT }), 10).data || []
  const failed = instances.filter((instance) => instance.failed_boot && farm && instance.created_at > farm.now - DAY_S)
  const needs = [...failedJobs(farm?.jobs.error), ...sickWorkers(workers), ...blockedPools(pools), ...failedBoots(failed), ...tightBudgets(budgets), ...silentWorkers(workers)]
  if (!needs.length) return null
  return (
    <Section name="needs" title="Needs a human" aside={count(needs.length)}>
      <ul class="plain-list">
        {needs.map(({ key, state, name, words, to, action }) => (
          <li key={key}>
            <Glyph state={state} />
            <Link to={to}>{name}</Link>
            <span class="words" title={words}>{words}</span>
            {action && <Actions actions={[action]} label={`For ${name}`} />}
          </li>
        ))}
      </ul>
    </Section>
  )
}
