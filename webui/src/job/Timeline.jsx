// What happened to a job or a worker, newest first, and its runs as bars on one axis of time.
import * as api from '../api.js'
import { duration, exact } from '../format.js'
import { Ago, Fault } from '../parts.jsx'
import { Link } from '../place.jsx'
import { useLive } from '../poll.js'

const SHOWN = 100
const TONES = { RUNNING: 'alive', LEASED: 'alive', FINISHED: 'good', ERROR: 'bad', LOST: 'warn', STOPPED: 'quiet' }

// The runs side by side; it repeats in a picture what the table of attempts says.
export function Gantt({ attempts, now, words, to }) {
  const runs = attempts.filter((attempt) => attempt.started_at || attempt.leased_at)
  if (runs.length < 2) return null
  const from = Math.min(...runs.map((run) => run.leased_at))
  const whole = Math.max(...runs.map((run) => run.ended_at || now)) - from || 1
  const share = (seconds) => `${(100 * seconds) / whole}%`
  return (
    <div class="gantt" role={to ? 'group' : 'img'} aria-label={`${runs.length} runs over ${duration(whole)}`}>
      {runs.toReversed().map((run) => (
        <Lane key={run.id} to={to?.(run)} title={`${words(run)}, ${exact(run.leased_at)}, ${duration((run.ended_at || now) - run.leased_at)}`}>
          <span class={TONES[run.state] || 'quiet'} aria-hidden="true" style={{ marginInlineStart: share(run.leased_at - from), width: share((run.ended_at || now) - run.leased_at) }} />
        </Lane>
      ))}
      <p class="ends" aria-hidden="true">
        <span>{exact(from)}</span>
        <span>{exact(from + whole)}</span>
      </p>
    </div>
  )
}

function Lane({ to, title, children }) {
  if (!to) return <span class="lane" title={title}>{children}</span>
  return (
    <Link class="lane" to={to} title={title} aria-label={title}>
      {children}
    </Link>
  )
}

export const Happenings = ({ rows }) => (
  <ul class="plain-list happenings">
    {rows.map((row, at) => (
      <li key={`${row.id ?? row.at}${row.kind}${at}`}>
        <span class="when">
          <Ago at={row.at} />
        </span>
        <span class="kind">{row.kind}</span>
        <span class="words">
          {row.text}
          {row.worker && !row.text?.includes(row.worker) && typeof row.worker === 'string' ? ` on ${row.worker}` : ''}
          {row.who && <span class="of"> by {row.who}</span>}
        </span>
      </li>
    ))}
  </ul>
)

export function Timeline({ job }) {
  const { data, error } = useLive(`timeline:${job.id}`, () => api.timeline(job.id, SHOWN), 3)
  if (error) return <Fault error={error} />
  if (!data?.length) return null
  return (
    <section class="timeline">
      <h3>Timeline</h3>
      <Happenings rows={data} />
    </section>
  )
}
