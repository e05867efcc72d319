// Cloud: the pools with what stops them, the machines with their price and why they run, and what was decided.
import * as api from '../api.js'
import { count } from '../format.js'
import { Actions, Empty, Fault, Loading, Section, State } from '../parts.jsx'
import { useLive } from '../poll.js'
import { Decisions } from './Decisions.jsx'
import { Instances } from './Instances.jsx'

function Pool({ pool }) {
  const states = Object.entries(pool.instances)
  const paid = states.reduce((sum, [, n]) => sum + n, 0)
  const actions = pool.allowed_actions.includes('resume') ? [{ name: 'resume', label: 'Resume', run: () => api.resumePools([pool.name]) }] : []
  return (
    <li class="pool">
      <div class="line">
        <span class="name">{pool.name}</span>
        <span class="terms">{[pool.provider, pool.region, ...pool.affinity.flat()].filter(Boolean).join(' · ')}</span>
        <span class="tally">
          {states.map(([state, n]) => (
            <span key={state}>
              <State state={state} /> {count(n)}
            </span>
          ))}
          {!pool.enabled && <span class="of">switched off</span>}
        </span>
        <span class="left">
          <strong>{count(paid)}</strong> of at most {count(pool.max)}
          {pool.min > 0 && `, at least ${count(pool.min)}`}
        </span>
      </div>
      {pool.blocked && <p class="bad">{pool.blocked}</p>}
      {actions.length > 0 && <Actions actions={actions} label={`Actions for pool ${pool.name}`} />}
    </li>
  )
}

function Pools() {
  const { data, error } = useLive('pools', api.pools, 3)
  return (
    <Section name="pools" title="Pools">
      <Fault error={error} />
      {!data && !error && <Loading />}
      {data?.length === 0 && (
        <Empty>
          No pools. A <code>[pool NAME]</code> in cloud.ini says what may be started when jobs wait.
        </Empty>
      )}
      <ul class="plain-list">
        {data?.map((pool) => (
          <Pool key={pool.name} pool={pool} />
        ))}
      </ul>
    </Section>
  )
}

export function Cloud({ farm }) {
  return (
    <div class="split">
      <div>
        <Pools />
        <Instances />
      </div>
      <div>
        <Decisions farm={farm} limit={100} />
      </div>
    </div>
  )
}
