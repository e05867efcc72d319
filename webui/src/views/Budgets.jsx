// Spend against each budget: what is gone, what is promised to machines that run, and where it ends.
import { digitsFor, money } from '../format.js'
import { Ago, Bar, Empty, Section } from '../parts.jsx'

function Budget({ budget }) {
  const { currency, spent_micro: spent, reserved_micro: reserved, cap_micro: cap, left_micro: left } = budget
  const show = (micro) => money(micro, currency, digitsFor(cap, Math.min(spent || cap, reserved || cap)))
  const label = `${show(spent)} spent and ${show(reserved)} reserved of ${show(cap)}`
  const parts = [
    { amount: spent, tone: 'spent' },
    { amount: reserved, tone: 'reserved' },
  ]
  return (
    <li class="budget">
      <div class="line">
        <span class="name">{budget.name}</span>
        <span class="terms">
          {budget.applies_to} · {budget.window} · {budget.hard ? 'hard cap' : 'warns only'}
        </span>
        <span class="left">
          <strong>{show(left)}</strong> left of {show(cap)}
        </span>
      </div>
      <Bar whole={Math.max(cap, spent + reserved)} parts={parts} label={label} tall />
      <div class="line legend">
        <span>
          <i class="key spent" /> {show(spent)} spent
        </span>
        <span>
          <i class="key reserved" /> {show(reserved)} reserved
        </span>
        {budget.window !== 'total' && (
          <span class="ends">
            window ends <Ago at={budget.ends_at} />
          </span>
        )}
      </div>
    </li>
  )
}

export function Budgets({ farm }) {
  if (!farm) return null
  return (
    <Section name="budgets" title="Budgets">
      {farm.budgets.length ? (
        <ul class="plain-list">
          {farm.budgets.map((budget) => (
            <Budget key={budget.name} budget={budget} />
          ))}
        </ul>
      ) : (
        <Empty>
          No budgets. A <code>[budget NAME]</code> in cloud.ini caps what pools may spend.
        </Empty>
      )}
    </Section>
  )
}
