// GET /jobs as the server answers it, of a list of ids: the cursor is the last id seen, and answers take their time.
export const list = { ids: [], after: (id, last) => id > last, counted: Infinity, below: 0, told: true, slowness: () => 0, calls: 0 }

export async function page({ cursor, offset, limit, parent }) {
  list.calls += 1
  const rows = parent ? [] : list.ids.filter((id) => cursor === '' || list.after(id, Number(cursor)))
  const told = {}
  if (offset) {
    if (!list.told) throw new Error('an offset where no total is told')
    const passed = Math.min(offset, rows.length)
    Object.assign(told, { offset: passed, cursor: passed ? String(rows[passed - 1]) : cursor || null })
    rows.splice(0, passed)
  } else if (!cursor) {
    const total = list.told ? Math.min(rows.length, list.counted) : null
    Object.assign(told, { total, more: total !== null && rows.length > total, counts: { total: list.below || rows.length } })
  }
  const jobs = rows.slice(0, limit).map((id) => ({ id }))
  const next = rows.length > limit ? String(jobs[limit - 1].id) : null
  for (let turn = list.slowness(); turn > 0; turn -= 1) await new Promise(setImmediate)
  return { jobs, next, ...told }
}
