// Lists that grow backwards: the newest page is kept fresh, older ones are added on demand.
import { useState } from 'preact/hooks'
import { Actions } from '../parts.jsx'

// {rows, more}: `data` is the newest page of what was `asked` for; `load` gives another.
export function usePages(data, asked, load) {
  const key = JSON.stringify(asked)
  const [older, setOlder] = useState([])
  const [of, setOf] = useState(key)
  const rows = data && of === key ? [...data, ...older.filter((row) => row.id < data[data.length - 1]?.id)] : data
  const more = async () => {
    const next = await load({ ...asked, before: rows[rows.length - 1].id })
    setOlder([...rows.slice(data.length), ...next])
    setOf(key)
  }
  return { rows, more }
}

export const Older = ({ more }) => (
  <p class="pager">
    <Actions label="What was before" actions={[{ name: 'older', label: 'Older', run: more }]} />
  </p>
)
