// What the autoscaler decided lately, and why, in its own words.
import * as api from '../api.js'
import { count } from '../format.js'
import { Ago, Empty, Fault, Lasting, Loading, Section } from '../parts.jsx'
import { now, useLive } from '../poll.js'

function Decision({ decision }) {
  const { action, count: n, pool, reason, at, last_at: last } = decision
  const lasted = last && last - at > 5
  const holds = lasted && now.value - last < 60
  return (
    <li class={`decision ${action}`}>
      <div class="line">
        <span class="what">
          <strong>
            {action}
            {n > 0 && ` ${count(n)}`}
          </strong>
          {pool && <span class="pool">{pool}</span>}
        </span>
        <span class="when">
          {lasted && (
            <span class="lasted">
              for <Lasting from={at} to={last} />
              {!holds && ', until '}
            </span>
          )}
          {!holds && <Ago at={last || at} />}
        </span>
      </div>
      <p>{reason}</p>
    </li>
  )
}

// What holds a pool back changes its words with each number in them: the newest says it.
function newest(decisions) {
  const held = new Set()
  return decisions.filter(({ action, pool }) => {
    if (action !== 'hold') return true
    const isNewest = !held.has(pool)
    held.add(pool)
    return isNewest
  })
}

function scalingWords(scaling) {
  if (!scaling) return ''
  if (!scaling.enabled) return 'scaling is off'
  return scaling.paused ? 'scaling is paused' : 'scaling is on'
}

// `brief`: so many, else a hundred.
export function Decisions({ farm, brief = 0 }) {
  const { data, error } = useLive('decisions', () => api.decisions(100))
  const shown = brief ? newest(data || []).slice(0, brief) : data || []
  return (
    <Section name="decisions" title="Decisions" aside={scalingWords(farm?.scaling)}>
      <Fault error={error} />
      {!data && !error && <Loading />}
      {data?.length === 0 && <Empty>Nothing decided yet. When jobs wait, what the autoscaler does about it, and why, is written here.</Empty>}
      <ul class="plain-list">
        {shown.map((decision) => (
          <Decision key={decision.id} decision={decision} />
        ))}
      </ul>
    </Section>
  )
}
