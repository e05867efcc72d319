// The farm at a glance: first what needs a human, then the queue, the fleet, the money, and what was decided.
import * as api from '../api.js'
import { count } from '../format.js'
import { Section, State } from '../parts.jsx'
import { Link } from '../place.jsx'
import { useLive } from '../poll.js'
import { Budgets } from './Budgets.jsx'
import { Decisions } from './Decisions.jsx'
import { History } from './History.jsx'
import { Jobs } from './Jobs.jsx'
import { Needs } from './Needs.jsx'

function States({ states }) {
  return states.map(([state, n]) => (
    <span key={state}>
      <State state={state} /> <strong>{count(n)}</strong>
    </span>
  ))
}

function Fleet({ farm }) {
  const states = Object.entries(farm?.workers || {}).sort(([, a], [, b]) => b - a)
  const pools = (useLive('pools', api.pools, 5).data || []).filter((pool) => Object.keys(pool.instances).length)
  return (
    <Section name="fleet" title="Fleet" aside={<Link to={{ view: 'workers' }}>All workers</Link>}>
      {farm && !states.length && (
        <p class="empty">
          No workers yet. Start one on any machine of this network: <code>coalition worker</code>
        </p>
      )}
      <p class="tally">
        <States states={states} />
      </p>
      {pools.map((pool) => (
        <p class="tally" key={pool.name}>
          <span>
            pool <Link to={{ view: 'cloud' }}>{pool.name}</Link>
          </span>
          <States states={Object.entries(pool.instances)} />
        </p>
      ))}
    </Section>
  )
}

export function Farm({ farm, server }) {
  return (
    <div class="split">
      <div>
        <Needs farm={farm} />
        <Jobs farm={farm} home />
        {server.rights?.includes('view_all') !== false && <History currency={farm?.currency} />}
      </div>
      <div>
        <Fleet farm={farm} />
        <Budgets budgets={farm?.budgets} />
        <Decisions farm={farm} brief={8} />
      </div>
    </div>
  )
}
