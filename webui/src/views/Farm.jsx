// The farm at a glance: first what needs a human, then the queue, the fleet, the money, and what was decided.
import * as api from '../api.js'
import { count, money, plural } from '../format.js'
import { Actions, Glyph, Section, State } from '../parts.jsx'
import { Link } from '../place.jsx'
import { useLive } from '../poll.js'
import { Budgets } from './Budgets.jsx'
import { Decisions } from './Decisions.jsx'
import { Jobs } from './Jobs.jsx'

const TIGHT = 0.9 // of a budget

const resume = (run) => [{ name: 'resume', label: 'Resume', run }]

function sickWorkers(workers) {
  return workers
    .filter((worker) => worker.state === 'SICK')
    .map((worker) => ({
      key: `worker ${worker.id}`,
      state: 'SICK',
      name: worker.name,
      to: { view: 'workers', worker: worker.id },
      words: worker.reason,
      actions: worker.allowed_actions.includes('resume') ? resume(() => api.resumeWorkers([worker.id])) : [],
    }))
}

function silentWorkers(workers) {
  const silent = workers.filter((worker) => worker.state === 'TIMEOUT')
  if (!silent.length) return []
  const words = silent.length === 1 ? silent[0].reason : `${plural(silent.length, 'worker')} have not been heard of`
  return [{ key: 'silent', state: 'TIMEOUT', name: silent.length === 1 ? silent[0].name : 'Silent workers', to: { view: 'workers' }, words, actions: [] }]
}

function blockedPools(pools) {
  return pools
    .filter((pool) => pool.blocked)
    .map((pool) => ({
      key: `pool ${pool.name}`,
      state: 'ERROR',
      name: `pool ${pool.name}`,
      to: { view: 'cloud' },
      words: pool.blocked,
      actions: pool.allowed_actions.includes('resume') ? resume(() => api.resumePools([pool.name])) : [],
    }))
}

function tightBudgets(budgets) {
  return budgets
    .filter((budget) => budget.cap_micro && budget.committed_micro >= TIGHT * budget.cap_micro)
    .map((budget) => ({
      key: `budget ${budget.name}`,
      state: 'PAUSED',
      name: `budget ${budget.name}`,
      to: { view: 'money' },
      words: `${money(budget.left_micro, budget.currency)} left of ${money(budget.cap_micro, budget.currency)}`,
      actions: [],
    }))
}

function Needs({ farm }) {
  const workers = useLive('workers', api.workers, 2).data || []
  const pools = useLive('pools', api.pools, 5).data || []
  const errors = farm?.jobs.error || 0
  const failed = errors ? [{ key: 'errors', state: 'ERROR', name: plural(errors, 'job'), words: 'ended with errors', to: { view: 'jobs', filter: 'state:ERROR group:no', parent: 0 }, actions: [] }] : []
  const needs = [...failed, ...sickWorkers(workers), ...blockedPools(pools), ...tightBudgets(farm?.budgets || []), ...silentWorkers(workers)]
  if (!needs.length) return null
  return (
    <Section name="needs" title="Needs a human" aside={count(needs.length)}>
      <ul class="plain-list">
        {needs.map(({ key, state, name, words, to, actions }) => (
          <li key={key}>
            <Glyph state={state} />
            <Link to={to}>{name}</Link>
            <span class="words">{words}</span>
            {actions.length > 0 && <Actions actions={actions} label={`For ${name}`} />}
          </li>
        ))}
      </ul>
    </Section>
  )
}

function Fleet({ farm }) {
  const states = Object.entries(farm?.workers || {}).sort(([, a], [, b]) => b - a)
  const machines = Object.entries(farm?.instances || {})
  return (
    <Section name="fleet" title="Fleet" aside={<Link to={{ view: 'workers' }}>All workers</Link>}>
      {farm && !states.length && (
        <p class="empty">
          No workers yet. Start one on any machine of this network: <code>coalition worker</code>
        </p>
      )}
      <p class="tally">
        {states.map(([state, n]) => (
          <span key={state}>
            <State state={state} /> <strong>{count(n)}</strong>
          </span>
        ))}
      </p>
      {machines.length > 0 && (
        <p class="tally">
          <span>
            <Link to={{ view: 'cloud' }}>Cloud machines</Link>
          </span>
          {machines.map(([state, n]) => (
            <span key={state}>
              <State state={state} /> <strong>{count(n)}</strong>
            </span>
          ))}
        </p>
      )}
    </Section>
  )
}

export function Farm({ farm }) {
  return (
    <div class="split">
      <div>
        <Needs farm={farm} />
        <Jobs farm={farm} home />
      </div>
      <div>
        <Fleet farm={farm} />
        <Budgets budgets={farm?.budgets} />
        <Decisions farm={farm} limit={8} />
      </div>
    </div>
  )
}
