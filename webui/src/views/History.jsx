// The farm over time: what waited, what the slots did, and what an hour cost.
import { useState } from 'preact/hooks'
import * as api from '../api.js'
import { Chart } from '../charts/Chart.jsx'
import { compact, money } from '../format.js'
import { Empty, Fault, Loading, Modes, Section } from '../parts.jsx'
import { now, useLive } from '../poll.js'

const SPANS = { 21600: '6 hours', 86400: 'a day', 604800: 'a week', 2592000: '30 days' }

const QUEUE = [
  { word: 'waiting', tone: 'quiet', of: (point) => point.waiting + point.pending, fill: true },
  { word: 'working', tone: 'alive', of: (point) => point.working },
  { word: 'errors', tone: 'bad', of: (point) => point.error },
]
const SLOTS = [
  { word: 'slots', tone: 'quiet', of: (point) => point.slots },
  { word: 'busy', tone: 'alive', of: (point) => point.busy, fill: true },
]
const DOLLAR = 1_000_000
const COST = [{ word: 'an hour', tone: 'spent', of: (point) => point.burn_micro, fill: true }]

const whole = (n) => compact(Math.round(n)) // a point is the mean of some minutes

export function History({ currency }) {
  const [span, setSpan] = useState('86400')
  const load = () => api.history(Math.floor((now.peek() - Number(span)) / 60) * 60)
  const { data, error } = useLive(`history:${span}`, load, 30)
  const aside = <Modes label="Time" value={span} words={SPANS} onChoose={setSpan} />
  const points = data?.points
  return (
    <Section name="history" title="Over time" aside={aside}>
      <Fault error={error} />
      {!data && !error && <Loading />}
      {points?.length === 0 && <Empty>Nothing is noted yet: the server keeps a point a minute from its start on.</Empty>}
      {points?.length > 0 && (
        <div class="charts">
          <Chart title="Jobs" points={points} series={QUEUE} step={data.step_s} format={whole} />
          <Chart title="Slots" points={points} series={SLOTS} step={data.step_s} format={whole} />
          <Chart title="Spend" points={points} series={COST} step={data.step_s} none={DOLLAR} format={(micro) => money(micro, currency)} />
        </div>
      )}
    </Section>
  )
}
